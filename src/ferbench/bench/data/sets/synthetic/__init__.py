"""Synthetic faces: drawn by ferbench."""
