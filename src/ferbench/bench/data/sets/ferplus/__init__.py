"""FERPlus; start with `reader.py`."""
