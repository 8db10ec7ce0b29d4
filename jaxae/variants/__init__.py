"""One short file per idea: its model and its pure loss."""
