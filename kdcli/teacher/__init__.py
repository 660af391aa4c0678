"""The teacher's outputs: precision, storage, cache key, ensembles."""
