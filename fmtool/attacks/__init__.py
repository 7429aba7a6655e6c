"""Foolbox's attacks, and white-box attacks on the two-pass classifier."""
