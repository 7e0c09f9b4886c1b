"""edge-imdb: sentiment of film reviews on small devices."""

__version__ = "0.1.0"
