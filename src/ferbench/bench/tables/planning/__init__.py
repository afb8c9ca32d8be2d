"""What is there, what can be run, and what would it cost? Nothing here imports torch. Start with `listing.py`."""
