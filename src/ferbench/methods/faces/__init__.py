"""Methods for faces that the papers compare with, a file each."""
