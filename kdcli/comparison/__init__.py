"""Whether a distilled student beats its baseline: the same student trained on labels only."""
