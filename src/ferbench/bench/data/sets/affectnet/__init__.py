"""Affectnet."""
