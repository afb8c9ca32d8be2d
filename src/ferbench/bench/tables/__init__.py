"""Which runs does a table need, and which are there?

Start with `reproduce.py`, which turns a protocol's cells into finished runs; `settings.py` says what a run is asked to
be, `runs.py` joins that with the data, and `counted.py` says which finished runs count for which cells.
"""
