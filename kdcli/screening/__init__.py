"""What a model file could do, found out by reading: nothing in it is run."""
