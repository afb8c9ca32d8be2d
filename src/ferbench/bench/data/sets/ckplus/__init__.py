"""Ckplus."""
