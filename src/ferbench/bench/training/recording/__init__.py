"""What does a run leave behind, and how is it known again? Files, digests, code, versions. Start with `records.py`."""
