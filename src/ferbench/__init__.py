"""ferbench: a benchmark harness for semi- and weakly-supervised facial expression recognition."""

__version__ = "0.1.0"
