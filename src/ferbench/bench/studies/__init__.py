"""What else can be asked of finished runs? Plots, attacks, costs, predictions, and a search for learning rates.

Start with `afterwards.py`, which the commands call.
"""
