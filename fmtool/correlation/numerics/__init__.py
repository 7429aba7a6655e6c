"""Distances, neighbours and dimensions, fast enough for permutation tests."""
