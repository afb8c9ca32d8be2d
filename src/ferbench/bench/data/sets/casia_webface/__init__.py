"""CASIA-WebFace; start with `reader.py`."""
