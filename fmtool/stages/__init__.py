"""The stages as functions: artifacts and data in, an artifact out. The command line and `import fmtool` share them."""
