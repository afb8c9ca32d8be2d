"""What several methods share: statistics, memories, teachers, targets, mixing, views, sums over processes."""
