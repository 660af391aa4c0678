"""What a model file or a zoo model holds, described."""
