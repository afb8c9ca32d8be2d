"""Rafdb."""
