"""Methods that learn from candidate label sets, a file each; `partial.py` above is what they share."""
