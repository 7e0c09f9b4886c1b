"""Texts and tables: reading, cleaning, splitting, masking, measuring."""
