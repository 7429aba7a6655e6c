"""The files: their format, their history, and their rows."""
