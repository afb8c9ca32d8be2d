"""SFEW; start with `reader.py`."""
