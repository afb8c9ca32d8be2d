"""Which finished runs count, and for which cells? Records read strictly. Start with `counted.py`."""
