"""The tasks: sentiment and fill-mask, a folder for each."""
