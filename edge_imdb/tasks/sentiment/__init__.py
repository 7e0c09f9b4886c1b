"""The task sentiment: the label of a review."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...runtime.behaviour import Behaviour
from ..task import CLASSIFIER, Task

if TYPE_CHECKING:
    from ...runtime.bundle import Bundle
    from ..card import Card
    from ..evaluation import DataOptions, Evaluation, Progress
    from ..http import Http
    from .options import ReviewOptions
    from .pipeline import Sentiment
    from .rows import SentimentRows


class SentimentTask(Task):
    """Sentiment: a classifier of reviews, with two or more labels."""

    name = "sentiment"
    head = CLASSIFIER
    pipeline_tag = "text-classification"
    train_options = "edge_imdb.train.options:SentimentOptions"
    train = "edge_imdb.train.sentiment:train_sentiment"
    train_help = """Fine-tune a sentiment classifier.

    The finished run is a folder that is ready for the Hub, OUTPUT/sentiment.

    \b
    edge-imdb train sentiment
    edge-imdb train sentiment --data reviews.csv --test-data test.csv
    edge-imdb train sentiment --base microsoft/mpnet-base --tokens-per-batch 4096
    edge-imdb train sentiment --scored scored --layers 3
    edge-imdb train sentiment --resume
    """
    exporter = "edge_imdb.export.sentiment:SentimentExporter"
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
    def pipeline_options(self) -> type[ReviewOptions]:
        from .options import ReviewOptions

        return ReviewOptions

    @property
    def http(self) -> Http:
        from .http import HTTP

        return HTTP

    @property
    def card(self) -> Card:
        from .card import CARD

        return CARD

    @property
    def evaluate(self) -> Callable[[Any, DataOptions, int, Progress], Evaluation]:
        from .evaluation import evaluate

        return evaluate

    def reads(self, bundle: Bundle) -> str:
        length = bundle.truncation.max_length
        reads = f"{length} tokens"
        if bundle.early_exit:
            reads = f"{bundle.early_exit.length} tokens, and up to {length} if those don't give a sure label"
        if kept := bundle.token_dropping:
            shares = ", ".join(f"{share:.0%}" for share in kept)
            reads += f", of which {shares} are kept after its layers (--exact keeps all)"
        return f"{reads}; a longer review keeps its head and its tail (--sliding-windows reads all of it)"

    @property
    def rows(self) -> type[SentimentRows]:
        from .rows import SentimentRows

        return SentimentRows


TASK = SentimentTask()
