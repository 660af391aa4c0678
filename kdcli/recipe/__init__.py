"""What to do: the recipe and how it is read."""
