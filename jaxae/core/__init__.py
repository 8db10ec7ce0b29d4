"""Batches, transitions and experiments: the data of a loss, a training step as pure functions, a model with both."""
