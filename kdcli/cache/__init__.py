"""Kept answers: what a teacher said to the examples of a split, on disk, shared by all runs."""
