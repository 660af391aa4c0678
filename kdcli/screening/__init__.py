"""Screening: finds what a model file could do by reading it, without running any of it."""
