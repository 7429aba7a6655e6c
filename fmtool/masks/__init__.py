"""Frequency masks: what they are, how they are fitted, controls for them, and the defence based on them."""
