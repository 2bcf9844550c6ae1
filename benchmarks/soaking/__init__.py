"""Clients of `instantid serve`, good and bad, and what must hold for the service under them."""
