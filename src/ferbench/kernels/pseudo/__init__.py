"""Pseudo-labels from a mixture of predictions, gated by confidence (ReMoP, FixMatch)."""
