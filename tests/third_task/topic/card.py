from __future__ import annotations

from dataclasses import replace

from edge_imdb.tasks.sentiment.card import CARD as SENTIMENT

CARD = replace(SENTIMENT, example=("Topic", "The cast was good."))
