"""What an artifact says, as tables. Needs no torch."""
