"""Correlation of two paired data sets, each statistic with its permutation null (paper, section 3.2)."""
