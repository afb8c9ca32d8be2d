"""What happens in one run, from its first step to its record?

Start with `train.py`, the loop, which reads from top to bottom; `state.py` is all that will change. `steps` has a step
and its graph, `networks` what is trained, `recording` what a run leaves behind.
"""
