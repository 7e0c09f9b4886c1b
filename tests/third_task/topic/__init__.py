"""The task topic: what a sentence is about. A test adds this folder and a line in the registry, and nothing else."""

from __future__ import annotations

from typing import Any

from edge_imdb.runtime.behaviour import Behaviour
from edge_imdb.runtime.bundle import Bundle
from edge_imdb.tasks.task import CLASSIFIER, Task


class TopicTask(Task):
    name = "topic"
    head = CLASSIFIER
    pipeline_tag = "text-classification"
    train_options = "topic.training:TopicOptions"
    train = "topic.training:train_topic"
    train_help = "Fine-tune a classifier of topics."
    exporter = "topic.export:TopicExporter"

    def read_behaviour(self, record: dict[str, Any]) -> Behaviour:
        from edge_imdb.tasks.sentiment.manifest import read_behaviour

        return read_behaviour(record)

    @property
    def pipeline(self) -> type[Any]:
        from .pipeline import Topic

        return Topic

    @property
    def pipeline_options(self) -> type[Any]:
        from edge_imdb.tasks.sentiment.options import ReviewOptions

        return ReviewOptions

    @property
    def http(self) -> Any:
        from .http import HTTP

        return HTTP

    @property
    def rows(self) -> type[Any]:
        from .rows import TopicRows

        return TopicRows

    @property
    def card(self) -> Any:
        from .card import CARD

        return CARD

    @property
    def evaluate(self) -> Any:
        from edge_imdb.tasks.sentiment.evaluation import evaluate

        return evaluate

    def reads(self, bundle: Bundle) -> str:
        return f"{bundle.truncation.max_length} tokens of a sentence"


TASK = TopicTask()
