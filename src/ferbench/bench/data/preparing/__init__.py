"""How does a copy become the cache? Verified, decoded once, resumed when killed, and reported on.

Start with `prepare.py`, which goes from a listing to a published folder; `cache.py` is the form that is kept.
"""
