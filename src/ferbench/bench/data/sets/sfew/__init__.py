"""Sfew."""
