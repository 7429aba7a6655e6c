"""Figures of artifacts."""
