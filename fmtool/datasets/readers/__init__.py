"""One small module a format; each has `recognises`, which looks at names and first bytes, and `read`."""
