"""What does the network see? Weak, strong and plain views, made in batches on the device from a seed and a step.

Start with `augment.py`; `batches.py` joins the shuffled stream of indices with the views that a method wants.
"""
