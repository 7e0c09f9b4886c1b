"""Sentiment: labels and calibrated scores for reviews, called as a transformers pipeline is."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, InputError, UsageError
from .metrics import softmax
from .runtime import Loaded
from .text import SPECIAL, ReviewEncoder, Truncation

TASK = "sentiment"
_UNSET: Any = object()
Result = TypeVar("Result")


class Sentiment:
    """A sentiment bundle, loaded. One object may serve many threads.

    Arguments:
        model: folder of a bundle; None takes $EDGE_IMDB_MODELS/sentiment, ./models/sentiment, or the embedded one.
        provider: ``auto``, ``cpu``, ``cuda`` or another execution provider that the installed ONNX Runtime has.
        threads: threads that work on one text; None leaves one a physical core.
        precision: ``int8``, ``fp32``, or ``auto``: int8 on a CPU, fp32 elsewhere, whichever there is.
        exact: read every review to the length that the model was trained on. Otherwise a long review is first read in
            part, as ``bundle.first_reading`` says, and no further where that makes sure enough.
        windows: read the whole of a review that is longer than the model reads, in windows of equal length, and take
            the mean of their logits; the first reading is left out.

    Raises BundleError, ProviderError, UsageError or MissingDependencyError.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        provider: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
        exact: bool = False,
        windows: bool = False,
    ) -> None:
        self._loaded = Loaded(TASK, model, provider, threads, precision)
        self.bundle = self._loaded.bundle
        self.reason = self._loaded.reason
        self.precision = self._loaded.precision
        self._encoder = ReviewEncoder(self._loaded.tokenizer, self.bundle.truncation, copy=False)
        self._windows = windows
        self._first = None if exact or windows else self.bundle.first_reading
        labels = self._loaded.output[-1]
        if labels != len(self.bundle.labels):
            raise BundleError(
                f"The graph of {self.bundle.path} tells {labels} labels apart where its manifest names "
                f"{len(self.bundle.labels)}: export the bundle again."
            )

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of the logits."""
        return list(self.bundle.labels)

    @property
    def provider(self) -> str:
        """The execution provider that the session got, as ONNX Runtime calls it."""
        return self._loaded.provider

    def encode(self, text: str) -> list[int]:
        """The token ids of one review, as the graph gets them. *Shape:* ``(length,)``. Raises InputError if blank."""
        return self._encoder.frame(self.bundle.truncation.cut(self._tokens(text)))

    def logits(self, text: str, max_length: int | None = None) -> NDArray[np.float32]:
        """The logits of one review, cut to ``max_length`` tokens, by default as many as the model was trained on.

        *Shape:* ``(labels,)``. Raises InputError where the text is blank.
        """
        return self._logits(self._tokens(text), self._cut(max_length))

    def probabilities(self, text: str) -> NDArray[np.float64]:
        """Calibrated probabilities of one review. *Shape:* ``(labels,)``. Raises InputError where it is blank."""
        tokens = self._tokens(text)
        if self._windows:
            return softmax(self._windows_mean(tokens), self.bundle.temperature)
        first = self._first
        if first is not None and len(tokens) + SPECIAL > first.length:
            scores = softmax(self._logits(tokens, self._cut(first.length)), first.temperature)
            if scores.max() >= first.threshold:
                return scores
        return softmax(self._logits(tokens, self.bundle.truncation), self.bundle.temperature)

    def _tokens(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise InputError(f"A text is needed, not {type(text).__name__}: give a str.")
        return self._encoder.tokens(text)

    def _cut(self, max_length: int | None) -> Truncation:
        whole = self.bundle.truncation
        return whole if max_length is None else Truncation(max_length, whole.head_ratio)

    def _logits(self, tokens: list[int], cut: Truncation) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._loaded.run(self._encoder.frame(cut.cut(tokens)))[0]
        return result

    def _windows_mean(self, tokens: list[int]) -> NDArray[np.float32]:
        count = -(-len(tokens) // (self.bundle.truncation.max_length - SPECIAL))
        spans = np.linspace(0, len(tokens), count + 1).astype(int)
        parts = [self._loaded.run(self._encoder.frame(tokens[a:b]))[0] for a, b in itertools.pairwise(spans)]
        mean: NDArray[np.float32] = np.mean(parts, axis=0)
        return mean

    def stream(self, texts: Iterable[str], workers: int = 1) -> Iterator[dict[str, Any]]:
        """Yield ``{"label", "score"}`` for each text, in order, as it comes.

        ``workers`` is how many texts run at a time. With as many as there are cores and ``threads=1`` the whole is
        done soonest; with one worker and several threads each text is. Raises InputError as a call does.
        """
        for ranked in ordered_map(self._ranked, texts, workers):
            yield ranked[0]

    def _ranked(self, text: str) -> list[dict[str, Any]]:
        scores = self.probabilities(text)
        order = np.argsort(-scores, kind="stable")
        return [{"label": self.bundle.labels[i], "score": float(scores[i])} for i in order]

    @overload
    def __call__(self, inputs: str, *, top_k: int | None = ...) -> list[dict[str, Any]]: ...
    @overload
    def __call__(self, inputs: Sequence[str], *, top_k: int | None = ...) -> list[Any]: ...
    def __call__(self, inputs: str | Sequence[str], *, top_k: int | None = _UNSET) -> list[Any]:
        """Label a review or a list of them; the results are those of transformers' text-classification pipeline.

        Without ``top_k``: the best label of each text, ``[{"label", "score"}, ...]``. With ``top_k``: that many labels
        a text (None: all), best first; a list for one text, a list of lists for a list of texts.

        Raises InputError where a text is blank or no str, UsageError where ``top_k`` is under 1.
        """
        if top_k is not _UNSET and top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise UsageError(f"top_k is {top_k!r}: it must be 1 or more, or None for all labels.")
        if isinstance(inputs, str):
            return self._ranked(inputs)[: 1 if top_k is _UNSET else top_k]
        if top_k is _UNSET:
            return list(self.stream(inputs))
        return [self._ranked(text)[:top_k] for text in inputs]


def ordered_map(function: Callable[[str], Result], texts: Iterable[str], workers: int) -> Iterator[Result]:
    """``map`` with so many calls at a time, its results in order as they come. Raises UsageError for no workers."""
    if workers < 1:
        raise UsageError(f"workers is {workers}: it must be 1 or more.")
    if workers == 1:
        yield from map(function, texts)
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for text in texts:
                pending.append(pool.submit(function, text))
                # Enough that no worker waits while another is at a long text, and no more: texts may be a stream.
                if len(pending) > 8 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
