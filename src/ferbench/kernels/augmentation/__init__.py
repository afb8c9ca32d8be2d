"""Weak, strong and plain views of face images: RandAugment, Cutout, resize, crop, flip and normalise."""
