"""Classifiers: architectures, checkpoints in and out, and the classifier that every stage runs."""
