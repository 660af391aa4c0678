"""Honest figures."""
