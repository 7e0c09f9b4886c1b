"""Sentiment: labels and calibrated scores of reviews, called like a transformers pipeline."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, TypedDict, cast, overload

import numpy as np
from numpy.typing import NDArray

from ...data.inputs import Errors, Text, check_count, check_errors, each, is_one, text_of
from ...data.metrics import softmax
from ...data.text import SPECIAL, ReviewEncoder, Truncation
from ...errors import BundleError, InputError, UsageError
from ...runtime.executor import Executor
from ...runtime.model import Pipeline
from .attribution import Attribution, locate
from .graphs import keep_all_tokens, run_subsets

TASK = "sentiment"
_UNSET: Any = object()


UNSURE = "unsure"


class Label(TypedDict):
    """A label and its calibrated probability; the label is ``"unsure"`` if the score is under ``min_score``."""

    label: str
    score: float


class LabelOrNull(TypedDict):
    """A Label, or what stands in its place with ``errors="null"``: None for both."""

    label: str | None
    score: float | None


class Sentiment(Pipeline):
    """A loaded sentiment bundle. Many threads can share one object.

    Arguments:
        model: folder of a bundle, or its repository on the Hub, ``"user/repo"``, of which the files that are needed are
            fetched once; None takes $EDGE_IMDB_MODELS/sentiment, or the embedded one.
        revision: branch, tag or commit of the repository; None is its main branch.
        provider: ``auto``, ``cpu``, ``cuda`` or another execution provider that the installed ONNX Runtime has.
        threads: number of threads per text; None means one per physical core that this process may use.
        precision: ``int8``, ``fp32`` or ``auto``. ``auto`` prefers int8 on a CPU and fp32 elsewhere, and takes the
            other one if the bundle has only that.
        exact: do all the work: no early exit, and no token is dropped on the way through the layers. Without it, a long
            review is first cut to ``bundle.early_exit.length`` tokens, and if that gives a score of at least
            ``threshold``, the rest is not read; and after each layer the graph keeps only the share of the tokens
            in ``bundle.token_dropping``. Each applies if the bundle has it.
        sliding_windows: read all of a review that is longer than the model's maximum, in windows of equal length, and
            average their logits. There is no early exit then.
        min_score: a text whose best score is lower gets the label ``"unsure"``, with that score; 0 never says so. It
            leaves ``top_k`` and ``probabilities`` as they are.
        executor: what runs the graphs, instead of ONNX Runtime with ``provider`` and ``threads``.

    Raises BundleError, HubError, ProviderError, UsageError or MissingDependencyError.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        provider: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
        exact: bool = False,
        sliding_windows: bool = False,
        min_score: float = 0.0,
        executor: Executor | None = None,
    ) -> None:
        if isinstance(min_score, bool) or not isinstance(min_score, (int, float)) or not 0 <= min_score <= 1:
            raise UsageError(f"min_score is {min_score!r}: it must be a number from 0 to 1.")
        self._min_score = min_score
        behaviour = {"exact": exact, "sliding_windows": sliding_windows, "min_score": min_score}
        super().__init__(TASK, model, revision, provider, threads, precision, executor, behaviour)
        self._encoder = ReviewEncoder(self._model.tokenizer, self.bundle.truncation, copy=False)
        if exact:
            self._model.extra = keep_all_tokens(self._model)
        self._sliding_windows = sliding_windows
        self._first = None if exact or sliding_windows else self.bundle.early_exit
        # No cut keeps more ids than this of a review.
        lengths = [self.bundle.truncation.max_length, *([self._first.length] if self._first else [])]
        self._reach = max(lengths) - SPECIAL
        labels = self._model.output[-1]
        if labels != len(self.bundle.labels):
            raise BundleError(
                f"The graph of {self.bundle.path} has {labels} outputs, but its manifest lists "
                f"{len(self.bundle.labels)} labels: export the bundle again."
            )

    def wrap_tokenizer(self, wrap: Callable[[Any], Any]) -> None:
        """Replace the tokenizer with ``wrap(tokenizer)``."""
        self._encoder._tokenizer = wrap(self._encoder._tokenizer)

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of the logits."""
        return list(self.bundle.labels)

    def encode(self, text: Text) -> list[int]:
        """The token ids that the graph gets for a review. *Shape:* ``(length,)``. Raises InputError if it is blank."""
        return self._encoder.encode(text_of(text))

    def count_tokens(self, text: Text) -> int:
        """How many tokens a review has before it is cut, special tokens included. Raises InputError if blank."""
        return len(self._encoder.tokens(text_of(text))) + SPECIAL

    def logits(self, text: Text, max_length: int | None = None) -> NDArray[np.float32]:
        """The logits of one review, cut to ``max_length`` tokens, by default as many as the model was trained on.

        *Shape:* ``(labels,)``. Raises InputError where the text is blank, UsageError where ``max_length`` is under 3 or
        over the model's.
        """
        return self._logits(self._ends(text_of(text)), self._cut(max_length))

    @overload
    def probabilities(self, inputs: Text) -> NDArray[np.float64]: ...
    @overload
    def probabilities(
        self,
        inputs: Iterable[Text | None],
        *,
        batch_size: int | None = ...,
        workers: int = ...,
        errors: Errors = ...,
    ) -> NDArray[np.float64]: ...
    def probabilities(
        self,
        inputs: Text | Iterable[Text | None],
        *,
        batch_size: int | None = None,
        workers: int = 1,
        errors: Errors = "raise",
    ) -> NDArray[np.float64]:
        """Calibrated probabilities of one review or of several, given as in a call.

        *Shape:* ``(labels,)`` for one, ``(texts, labels)`` for several. Raises InputError where a text is blank or
        none; with ``errors="null"`` its row is NaN.
        """
        null = check_errors(errors)
        _check_batch_size(batch_size)
        if is_one(inputs):
            try:
                return self._probabilities(text_of(inputs))
            except InputError:
                if null:
                    return self._no_probabilities()
                raise
        rows = list(each(self._probabilities, inputs, workers, self._no_probabilities if null else None))
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.bundle.labels))

    def _no_probabilities(self) -> NDArray[np.float64]:
        return np.full(len(self.bundle.labels), np.nan)

    def _probabilities(self, text: str) -> NDArray[np.float64]:
        if self._sliding_windows:
            return softmax(self._mean_of_windows(self._tokens(text)), self.bundle.temperature)
        tokens, first = self._ends(text), self._first
        if first is not None and len(tokens) + SPECIAL > first.length:
            cut = Truncation(first.length, self.bundle.truncation.head_ratio)
            scores = softmax(self._logits(tokens, cut), first.temperature)
            if scores.max() >= first.threshold:
                return scores
        return softmax(self._logits(tokens, self.bundle.truncation), self.bundle.temperature)

    def _tokens(self, text: str) -> list[int]:
        """All ids of a review, however long."""
        return self._encoder.tokens(text)

    def _ends(self, text: str) -> list[int]:
        """Ids of a review that give, cut to any length that the model reads, what all of them give."""
        return self._encoder.ends(text, self._reach)

    def _cut(self, max_length: int | None) -> Truncation:
        whole = self.bundle.truncation
        if max_length is None:
            return whole
        if check_count("max_length", max_length) > whole.max_length:
            raise UsageError(
                f"max_length is {max_length}: this model reads {whole.max_length} tokens at most; give no more, or "
                "open it with sliding_windows=True to read longer texts."
            )
        return Truncation(int(max_length), whole.head_ratio)

    def _logits(self, tokens: list[int], cut: Truncation) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._model.run(self._encoder.frame(cut.cut(tokens)))[0]
        return result

    def _windows(self, tokens: list[int]) -> list[list[int]]:
        count = -(-len(tokens) // (self.bundle.truncation.max_length - SPECIAL))
        spans = np.linspace(0, len(tokens), count + 1).astype(int)
        return [tokens[a:b] for a, b in itertools.pairwise(spans)]

    def _mean_of_windows(self, tokens: list[int]) -> NDArray[np.float32]:
        parts = [self._model.run(self._encoder.frame(window))[0] for window in self._windows(tokens)]
        mean: NDArray[np.float32] = np.mean(parts, axis=0)
        return mean

    def explain(self, text: Text) -> dict[str, Any]:
        """The label of one review, and which of its words and sentences decided.

        Returns a dict of plain values: ``label`` and ``score``, those of a call; ``toward``, the label that positive
        weights speak for (of two labels the second, of more the one that was given); ``margin``, the log-odds of that
        label, in nats; ``words``, a list of ``{"word", "start", "end", "weight"}``; ``sentences``, ``{"start", "end",
        "weight", "alone"}``; ``unread``, ``{"start", "end", "why"}``, with ``why`` ``"cut"`` (of a long review) or
        ``"dropped"`` (markup). Places are characters of ``text`` as given.

        A sentence's weight is by how much the margin falls when the model, in its last layer, leaves that sentence out;
        a word's is the mean of that and of how much it rises when the model reads that word alone there.
        ``alone`` is the margin when it reads that sentence alone. Source: ``edge_graph/subsets.py``. It is done
        in int8, in the run that gives the label, whatever ``precision`` is. No token is dropped in that run, since any
        may be asked about: if the bundle drops tokens, label and score are those of a call with ``exact``.

        Raises InputError if the text is blank, BundleError if the bundle has no graph for it.
        """
        text = text_of(text)
        located = locate(self._encoder, text)
        found = Attribution(located, partial(run_subsets, self._model), self._encoder.frame)
        places, temperature, first = list(range(len(located.ids))), self.bundle.temperature, self._first
        if self._sliding_windows:
            scores = softmax(np.mean([found.read(window) for window in self._windows(places)], axis=0), temperature)
        else:
            sure = False
            if first is not None and len(places) + SPECIAL > first.length:
                temperature = first.temperature
                scores = softmax(found.read(self._cut(first.length).cut(places)), temperature)
                sure = bool(scores.max() >= first.threshold)
            if not sure:
                found.forget()
                temperature = self.bundle.temperature
                scores = softmax(found.read(self.bundle.truncation.cut(places)), temperature)
        best = int(np.argsort(-scores, kind="stable")[0])
        ranked = self._best([{"label": self.bundle.labels[best], "score": float(scores[best])}])
        return {**ranked, **found.result(text, self.labels, temperature)}

    def stream(self, texts: Iterable[Text | None], workers: int = 1, *, errors: Errors = "raise") -> Iterator[Label]:
        """Yield ``{"label", "score"}`` for each text, in order, as soon as it and those before it are done.

        ``workers`` is how many texts run at a time. With as many as there are cores and ``threads=1`` the whole is
        done soonest; with one worker and several threads each text is. With several, ``texts`` is walked in a thread
        of its own. Raises InputError as a call does, and takes ``errors`` as it does.
        """
        instead = (lambda: [_nothing()]) if check_errors(errors) else None
        return (self._best(ranked) for ranked in each(self._ranked, texts, workers, instead))

    def _best(self, ranked: list[Label]) -> Label:
        first = ranked[0]
        # A null has no score.
        if first["score"] is not None and first["score"] < self._min_score:
            return {"label": UNSURE, "score": first["score"]}
        return first

    def _ranked(self, text: str) -> list[Label]:
        scores = self._probabilities(text)
        order = np.argsort(-scores, kind="stable")
        return [{"label": self.bundle.labels[i], "score": float(scores[i])} for i in order]

    # A str is an Iterable of str and a mapping one of its keys, which comes to the same for no caller.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: str, *, top_k: int | None = ..., batch_size: int | None = ..., workers: int = ...
    ) -> list[Label]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Mapping[str, Any], *, batch_size: int | None = ..., workers: int = ...
    ) -> Label: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Mapping[str, Any], *, top_k: int | None, batch_size: int | None = ..., workers: int = ...
    ) -> list[Label]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Iterator[Text], *, batch_size: int | None = ..., workers: int = ...
    ) -> Iterator[Label]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Iterator[Text], *, top_k: int | None, batch_size: int | None = ..., workers: int = ...
    ) -> Iterator[list[Label]]: ...
    @overload
    def __call__(self, inputs: Iterable[Text], *, batch_size: int | None = ..., workers: int = ...) -> list[Label]: ...
    @overload
    def __call__(
        self, inputs: Iterable[Text], *, top_k: int | None, batch_size: int | None = ..., workers: int = ...
    ) -> list[list[Label]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        inputs: Iterator[Text | None],
        *,
        errors: Literal["null"],
        batch_size: int | None = ...,
        workers: int = ...,
    ) -> Iterator[LabelOrNull]: ...
    @overload
    def __call__(
        self,
        inputs: Iterable[Text | None],
        *,
        errors: Literal["null"],
        batch_size: int | None = ...,
        workers: int = ...,
    ) -> list[LabelOrNull]: ...
    @overload
    def __call__(
        self,
        inputs: Text | Iterable[Text | None] | None,
        *,
        top_k: int | None = ...,
        batch_size: int | None = ...,
        workers: int = ...,
        errors: Errors,
    ) -> Any: ...
    def __call__(
        self,
        inputs: Text | Iterable[Text | None] | None,
        *,
        top_k: int | None = _UNSET,
        batch_size: int | None = None,
        workers: int = 1,
        errors: Errors = "raise",
    ) -> Any:
        """Label a review or several; the results are those of transformers' text-classification pipeline.

        ``inputs`` is a text; a mapping ``{"text": …}``; a list or another sequence of them, an array or a Series; or an
        iterator, whose results come as an iterator, one by one. Without ``top_k``: the best label of each text,
        ``[{"label", "score"}, ...]``, for a mapping without the list. With ``top_k``: that many labels a text (None:
        all), best first; a list for one text, a list of lists for a list of texts.

        ``workers`` is how many texts run at a time, as in ``stream``. ``batch_size`` is taken as a pipeline takes it
        and changes nothing: each text runs by itself. ``errors="null"`` gives a text that is blank or none a label and
        a score of None.

        Raises InputError where a text is blank or none, which names its index in ``inputs``; UsageError where
        ``top_k``, ``batch_size`` or ``workers`` is under 1.
        """
        best = top_k is _UNSET
        count = 1 if best else None if top_k is None else check_count("top_k", top_k)
        null = check_errors(errors)
        check_count("workers", workers)
        _check_batch_size(batch_size)

        if is_one(inputs):
            try:
                ranked = self._ranked(text_of(inputs))[:count]
            except InputError:
                if not null:
                    raise
                ranked = [_nothing()]
            if best:
                ranked = [self._best(ranked)]
            return ranked[0] if best and isinstance(inputs, Mapping) else ranked
        instead = (lambda: [_nothing()]) if null else None
        texts = cast(Iterable[object], inputs)
        several = (
            self._best(found) if best else found[:count] for found in each(self._ranked, texts, workers, instead)
        )
        return several if isinstance(inputs, Iterator) else list(several)


def _nothing() -> Label:
    """The null of a bad row. Not a Label, as only those see who ask for it."""
    nothing: Any = {"label": None, "score": None}
    return nothing  # type: ignore[no-any-return]


def _check_batch_size(batch_size: int | None) -> None:
    if batch_size is not None:
        check_count("batch_size", batch_size)
