"""Sentiment: the label of a text and its calibrated score."""
