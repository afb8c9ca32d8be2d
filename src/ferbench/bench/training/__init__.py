"""What happens in one run, from its first step to its record?

Start with `train.py`, the loop, which reads from top to bottom; `state.py` is all that will change, `records.py` what a
run leaves behind.
"""
