"""One function for each command, read top to bottom."""
