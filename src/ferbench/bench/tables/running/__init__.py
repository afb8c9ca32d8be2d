"""How do planned runs get done? Claimed, trained by one or more processes, and watched. Start with `reproduce.py`."""
