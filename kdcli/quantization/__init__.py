"""Quantization-aware training: a model that computes as its 8-bit file will."""
