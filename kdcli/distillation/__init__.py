"""Teacher's answers, pairs of layers, and what the student minimises."""
