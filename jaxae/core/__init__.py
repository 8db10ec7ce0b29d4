"""Batches (input of a loss), transitions (a training step in pure functions) and experiments (a model with both)."""
