"""Data sets of a user's own: class folders, a table, or images without labels."""
