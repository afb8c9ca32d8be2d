"""What there is to see of finished runs: the board as table, CSV, DataFrame and page, comparisons, and their proof."""
