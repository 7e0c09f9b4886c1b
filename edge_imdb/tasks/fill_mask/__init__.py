"""Fill-mask: words for each [MASK] of a text."""
