"""fmtool: frequency maps of image classifiers and of the attacks on them."""
