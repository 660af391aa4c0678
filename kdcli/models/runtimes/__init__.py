"""Exported files, each in its own runtime."""
