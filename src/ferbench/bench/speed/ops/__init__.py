"""One speed case per kernel: its sizes, its inputs, and the ways to compute the same step. Start with `case.py`."""
