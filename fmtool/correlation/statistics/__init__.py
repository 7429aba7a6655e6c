"""One statistic a file."""
