"""What artifacts say, as tables. Needs no torch."""
