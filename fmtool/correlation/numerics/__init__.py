"""Distances, neighbours and dimensions, fast enough to permute."""
