"""What a command works with: the request, the run directory, data and models."""
