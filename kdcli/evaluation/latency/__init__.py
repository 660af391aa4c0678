"""How long models take for one request."""
