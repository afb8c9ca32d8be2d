"""RAF-DB; start with `reader.py`."""
