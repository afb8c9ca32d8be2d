"""Semi-supervised methods for images of any kind, a file each."""
