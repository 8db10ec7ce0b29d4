"""The three ideas: a loss returns terms per example, a transition is a pair of functions, an experiment is data."""
