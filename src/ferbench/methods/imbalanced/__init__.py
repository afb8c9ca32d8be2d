"""Imbalanced."""
