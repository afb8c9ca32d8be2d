"""FER2013; start with `reader.py`."""
