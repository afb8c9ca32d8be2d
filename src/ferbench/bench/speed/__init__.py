"""Speed: what `pytest bench` runs and the rows of results/speed.csv."""
