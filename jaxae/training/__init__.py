"""Training: an epoch as one compiled program, the data that it takes, and the generator that drives both."""
