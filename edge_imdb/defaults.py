"""BASE and DATA: what is trained, and on what, where nothing else is said."""

BASE = "distilbert/distilbert-base-uncased"
DATA = "stanfordnlp/imdb"
