"""Serving: an engine whose requests join and leave a running batch, and what stands on it."""
