"""The compiled loop and its checkpoints."""
