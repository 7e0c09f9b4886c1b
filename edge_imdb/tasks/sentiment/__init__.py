"""The task sentiment: the label of a review."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...runtime.behaviour import Behaviour
from ..task import Task

if TYPE_CHECKING:
    from ..http import Http
    from .pipeline import Sentiment


class SentimentTask(Task):
    """Sentiment: a classifier of reviews, with two or more labels."""

    name = "sentiment"
    pipeline_tag = "text-classification"
    behaviour = ("exact", "sliding_windows", "min_score")
    page_graph = "explain"
    page_needs = True

    def read_behaviour(self, record: dict[str, Any]) -> Behaviour:
        from .manifest import read_behaviour

        return read_behaviour(record)

    @property
    def pipeline(self) -> type[Sentiment]:
        from .pipeline import Sentiment

        return Sentiment

    @property
    def http(self) -> Http:
        from .http import HTTP

        return HTTP


TASK = SentimentTask()
