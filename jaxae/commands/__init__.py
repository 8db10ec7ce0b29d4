"""The console script `jaxae`: a sub-command per experiment, and a module here per command."""
