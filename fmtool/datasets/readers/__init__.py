"""One small module per format, with `recognises`, which checks names and first bytes, and `read`."""
