"""Whether a distilled student beats the same student trained alone."""
