"""A name or a path becomes images and labels."""
