"""Data sets that evaluations read."""
