"""The cache: teacher outputs for the examples of a split, on disk, shared by all runs."""
