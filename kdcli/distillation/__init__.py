"""Distillation: teacher targets, pairs of layers, and the objective that the student minimises."""
