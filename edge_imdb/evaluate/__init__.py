"""Data sets to measure on, masking, and figures."""
