"""Ferplus."""
