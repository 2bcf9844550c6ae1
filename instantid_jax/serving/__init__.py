"""Serving: requests that join and leave a running batch between steps; HTTP stands on the engine."""
