"""Training: the compiled loop, its checkpoints, and several workers."""
