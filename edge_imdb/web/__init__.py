"""The page: its files, the site they make, and the server that shows it."""
