"""Screening of SavedModel folders."""
