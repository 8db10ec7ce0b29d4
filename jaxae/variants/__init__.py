"""Models and their losses, one idea per file."""
