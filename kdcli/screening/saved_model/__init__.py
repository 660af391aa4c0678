"""What a SavedModel could run, read without running it."""
