"""All that FixMatch and its relatives do with a step's logits, at once."""
