"""Exponential moving average over lists of tensors."""
