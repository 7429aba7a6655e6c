"""The content of artifacts, as tables. Needs no torch."""
