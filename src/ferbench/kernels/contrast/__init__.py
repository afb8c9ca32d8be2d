"""Contrast of two views without the matrix of similarities (Ada-CM Eqs. 8-9)."""
