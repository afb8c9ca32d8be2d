"""A training step: what the host decides for it, the step itself, its replay as a graph, and what it logs."""
