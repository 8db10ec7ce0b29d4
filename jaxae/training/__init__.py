"""Training: the compiled epoch, its data feed, and the generator that drives both."""
