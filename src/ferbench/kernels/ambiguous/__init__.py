"""The ambiguous consistency loss over positive and negative class sets (LEAF Eqs. 6-14)."""
