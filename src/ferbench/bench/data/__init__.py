"""Readers, cache, splits and augmentation: from the user's files to batches on the device."""
