"""Plug-ins and methods for classes of unequal size, a file each."""
