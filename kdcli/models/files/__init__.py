"""Model files: detected, copied, screened and loaded."""
