"""Top-k gating and the weighted sum of experts (LEAF Eqs. 2-3)."""
