"""Examples by index, their order and their views."""
