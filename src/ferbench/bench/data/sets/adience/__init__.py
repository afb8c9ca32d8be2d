"""Adience; start with `reader.py`."""
