"""The HTTP service on many machines, as a deployment of Ray Serve."""
