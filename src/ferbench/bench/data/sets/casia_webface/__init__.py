"""Casia webface."""
