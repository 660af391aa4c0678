"""One training, from the opened models to the files of a run."""
