"""Partial label."""
