"""CK+; start with `reader.py`."""
