"""AffectNet; start with `reader.py`."""
