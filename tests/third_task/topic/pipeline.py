from __future__ import annotations

from edge_imdb import Sentiment


class Topic(Sentiment):
    bundle_task = "topic"
