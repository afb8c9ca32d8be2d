"""Is a copy complete, unchanged, and free of copies of one picture? Start with `verify.py`."""
