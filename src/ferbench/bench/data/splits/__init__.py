"""Which images are labelled, unlabelled, held out and tested, and which classes is an image's true one among?

Start with `draw.py`, which draws a split from a seed; `counts.py` has each paper's rule.
"""
