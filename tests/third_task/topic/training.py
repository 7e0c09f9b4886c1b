from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_imdb.train.options import SentimentOptions


@dataclass(frozen=True)
class TopicOptions(SentimentOptions):
    pass


def train_topic(options: TopicOptions, say: Callable[[str], None] = lambda line: None) -> Path:
    from edge_imdb.train.sentiment import train_sentiment

    return train_sentiment(options, say, task="topic")
