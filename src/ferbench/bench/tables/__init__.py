"""Which runs does a table need, and which are there?

Start with `settings.py`, which says what a run is asked to be; `runs.py` joins that with the data. `planning` lists and
estimates, `running` gets the runs done, `counting` says which finished ones count for which cells.
"""
