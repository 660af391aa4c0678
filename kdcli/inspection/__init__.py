"""Inspect model files and zoo models."""
