"""The Python API: one file per command, each with one function of its name."""
