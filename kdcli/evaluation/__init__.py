"""Measuring models: quality, chance, size, latency, parity with exported files, gates and statistics."""
