"""The command edge-imdb: ``main`` runs it; every other module is a group of commands."""
