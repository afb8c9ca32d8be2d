"""How fast is it? What `pytest bench` runs, and the scripts behind the rows of results/speed.csv.

Start with `device.py`, which checks every kernel and then times it; `ops` has a case per kernel, `record.py` the row.
"""
