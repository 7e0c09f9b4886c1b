from __future__ import annotations

from edge_imdb.export.sentiment import SentimentExporter


class TopicExporter(SentimentExporter):
    name = "topic"
