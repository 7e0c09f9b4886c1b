"""Sentiment: labels and calibrated scores of reviews, called like a transformers pipeline."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from ...data.inputs import Errors, MapStyle, Text, check_count, check_errors, each, is_one, results_for, text_of
from ...data.metrics import softmax
from ...data.text import SPECIAL, ReviewEncoder, Truncation
from ...errors import BundleError, InputError, UsageError
from ...runtime.executor import Executor
from ...runtime.options import RuntimeOptions
from ..transformers_interface import (
    UNSET,
    CallOptions,
    TransformersInterface,
    check_batches,
    check_length,
    check_options,
    is_cut,
    provider_of,
)
from .attribution import Attribution, locate
from .graphs import keep_all_tokens, run_subsets

TASK = "sentiment"
UNSURE = "unsure"
FUNCTIONS = ("softmax", "sigmoid", "none")


class Label(TypedDict):
    """A label and its calibrated probability; the label is ``"unsure"`` if the score is under ``min_score``."""

    label: str
    score: float


class LabelOrNull(TypedDict):
    """A Label, or None for both if the text is unusable and ``errors="null"``."""

    label: str | None
    score: float | None


@dataclass(frozen=True)
class _Reading:
    """How much of a text is read. ``cut`` None is all of it, in sliding windows."""

    cut: Truncation | None
    early_exit: bool = False
    # Whether a text that is too long is refused instead of cut.
    refuse: bool = False


class Sentiment(TransformersInterface):
    """An open sentiment bundle. Threads can share it.

    Arguments:
        model: folder of a bundle, or its repository on the Hub, ``"user/repo"``, from which the necessary files are
            downloaded on first use. None is $EDGE_IMDB_MODELS/sentiment, or else the embedded bundle.
        revision: branch, tag or commit of the repository; None is its main branch.
        provider: ``auto``, ``cpu``, ``cuda`` or another execution provider that the installed ONNX Runtime has.
        threads: number of threads per text; None is one per physical core that this process may use.
        precision: ``int8``, ``fp32`` or ``auto``. ``auto`` is int8 on a CPU and fp32 elsewhere, or the other precision
            if the bundle has only that.
        exact: turn off early exit and token dropping. By default, a long review is first cut to
            ``bundle.early_exit.length`` tokens, and the full review is read only if that gives a score below
            ``bundle.early_exit.threshold``. After each layer, the graph keeps only the share of the tokens in
            ``bundle.token_dropping``. A bundle may have either, both or neither.
        sliding_windows: read the whole of a review that is longer than the model's maximum, in windows of equal length,
            and average their logits. This turns off early exit.
        min_score: a text whose best score is lower gets the label ``"unsure"`` with that score. 0 turns this off. It
            changes neither ``top_k`` nor ``probabilities``.
        executor: what runs the graphs, instead of ONNX Runtime with ``provider`` and ``threads``.

    The other arguments are those of ``transformers.pipeline``:
        device: -1 or ``"cpu"``; 0, ``"cuda"`` or ``"cuda:0"``; or a ``torch.device``. An alternative to ``provider``.
        top_k, return_all_scores, function_to_apply, truncation, max_length: defaults for the calls. As in transformers,
            a text then gives a list of a list if ``top_k`` is given here and not in the call.
        padding, batch_size, num_workers: accepted; they change no result.
        task: ``"text-classification"`` or ``"sentiment-analysis"``.

    Raises BundleError, HubError, ProviderError, UsageError or MissingDependencyError.

    >>> from edge_imdb import Sentiment
    >>> sentiment = Sentiment()
    >>> sentiment("great film")[0]["label"]
    'pos'
    """

    bundle_task = TASK
    TASK_NAMES: ClassVar[tuple[str, ...]] = ("text-classification", "sentiment-analysis")

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
        device: Any = None,
        task: str | None = None,
        top_k: int | None = UNSET,
        return_all_scores: bool | None = None,
        function_to_apply: str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        padding: bool | str | None = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **unsupported: Any,
    ) -> None:
        if isinstance(min_score, bool) or not isinstance(min_score, (int, float)) or not 0 <= min_score <= 1:
            raise UsageError(f"min_score is {min_score!r}: it must be a number from 0 to 1.")
        self._accept(task, batch_size, num_workers, unsupported)
        check_options(type(self).__name__, {"padding": padding})
        self._ranking = _ranking(top_k, return_all_scores)
        self._function = _function(function_to_apply) or "softmax"
        self._min_score = min_score
        behaviour: dict[str, Any] = {
            "exact": exact,
            "sliding_windows": sliding_windows,
            "min_score": min_score,
            # ``provider`` says where the model runs.
            "device": None,
            "task": task,
            "top_k": top_k,
            "return_all_scores": return_all_scores,
            "function_to_apply": function_to_apply,
            "truncation": truncation,
            "max_length": max_length,
            "padding": padding,
            "batch_size": batch_size,
            "num_workers": num_workers,
        }
        options = RuntimeOptions(model, revision, precision, provider_of(device, provider), threads)
        super().__init__(options, executor, behaviour)
        self._encoder = ReviewEncoder(self._model.tokenizer, self.bundle.truncation, copy=False)
        if exact:
            self._model.extra = keep_all_tokens(self._model)
        self._sliding_windows = sliding_windows
        self._first = None if exact or sliding_windows else self.bundle.early_exit
        self._reading_options = truncation, max_length
        self._default = self._reading(truncation, max_length)
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
        """The labels, in the order of the logits.

        >>> from edge_imdb import Sentiment
        >>> Sentiment().labels
        ['neg', 'pos']
        """
        return list(self.bundle.labels)

    def encode(self, text: Text) -> list[int]:
        """The token ids that the graph gets for a review. *Shape:* ``(length,)``. Raises InputError if it is blank.

        >>> from edge_imdb import Sentiment
        >>> Sentiment().encode("great film")
        [101, 2307, 2143, 102]
        """
        return self._encoder.encode(text_of(text))

    def count_tokens(self, text: Text) -> int:
        """The number of tokens of a review before it is cut, with special tokens. Raises InputError if it is blank.

        >>> from edge_imdb import Sentiment
        >>> Sentiment().count_tokens("great film")
        4
        """
        return len(self._encoder.tokens(text_of(text))) + SPECIAL

    def logits(self, text: Text, max_length: int | None = None) -> NDArray[np.float32]:
        """The logits of one review, cut to ``max_length`` tokens; None is the length that the model was trained on.

        *Shape:* ``(labels,)``. Raises InputError if the text is blank, UsageError if ``max_length`` is less than 3 or
        more than the model reads.

        >>> from edge_imdb import Sentiment
        >>> Sentiment().logits("great film").shape
        (2,)
        """
        cut = self.bundle.truncation
        if max_length is not None:
            if check_count("max_length", max_length) > cut.max_length:
                raise UsageError(
                    f"max_length is {max_length}: this model reads {cut.max_length} tokens at most; give no more, or "
                    "open it with sliding_windows=True to read longer texts."
                )
            cut = Truncation(int(max_length), cut.head_ratio)
        return self._logits(self._ends(text_of(text), cut), cut)

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
        """Calibrated probabilities of one review or of several. The inputs are those of a call.

        *Shape:* ``(labels,)`` for one, ``(texts, labels)`` for several. Raises InputError if a text is blank or
        missing; with ``errors="null"`` its row is NaN instead.

        >>> from edge_imdb import Sentiment
        >>> Sentiment().probabilities(["great film", "what a bore"]).argmax(axis=1).tolist()
        [1, 0]
        """
        null = check_errors(errors)
        check_batches(batch_size, None)
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
        return self._scores(text, self._default)[0]

    def _reading(self, truncation: bool | str | None, max_length: int | None) -> _Reading:
        """How much of a text to read, by transformers' arguments. Warns and raises UsageError as they do."""
        trained, cut = self.bundle.truncation, is_cut(truncation)
        if not cut:
            # As in transformers, max_length then has no meaning. Early exit would not read the whole text.
            return _Reading(None if self._sliding_windows else trained, refuse=not self._sliding_windows)
        if self._sliding_windows:
            if max_length is None:
                return _Reading(None)
            return _Reading(Truncation(check_count("max_length", max_length), trained.head_ratio))
        longest = check_length(max_length, trained.max_length)
        return _Reading(Truncation(longest, trained.head_ratio), early_exit=True)

    def _scores(
        self, text: str, reading: _Reading, function: str = "softmax"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The probabilities of a text, and its scores by ``function``. *Shape:* ``(labels,)`` each."""
        logits, temperature = self._read(text, reading)
        probabilities = softmax(logits, temperature)
        if function == "softmax":
            return probabilities, probabilities
        calibrated = logits.astype(np.float64) / temperature
        return probabilities, calibrated if function == "none" else (1 + np.tanh(calibrated / 2)) / 2

    def _read(self, text: str, reading: _Reading) -> tuple[NDArray[np.float32], float]:
        """The logits of a text, and the temperature that calibrates them."""
        cut, temperature = reading.cut, self.bundle.temperature
        first = self._first if reading.early_exit else None
        if self._sliding_windows:
            tokens = self._tokens(text)
            return self._mean_of_windows(tokens if cut is None else cut.cut(tokens)), temperature
        assert cut is not None
        if reading.refuse:
            tokens = self._tokens(text)
            if len(tokens) + SPECIAL > cut.max_length:
                raise InputError(
                    f"The text has {len(tokens) + SPECIAL} tokens, this model reads at most {cut.max_length}, and "
                    "truncation is off: leave truncation out, or use Sentiment(sliding_windows=True)."
                )
            return self._logits(tokens, cut), temperature
        tokens = self._ends(text, cut)
        if first is not None and min(len(tokens) + SPECIAL, cut.max_length) > first.length:
            logits = self._logits(tokens, Truncation(first.length, cut.head_ratio))
            if softmax(logits, first.temperature).max() >= first.threshold:
                return logits, first.temperature
        return self._logits(tokens, cut), temperature

    def _tokens(self, text: str) -> list[int]:
        """All ids of a review, however long, without special tokens."""
        return self._encoder.tokens(text)

    def _ends(self, text: str, cut: Truncation) -> list[int]:
        """Enough ids from both ends of a review for ``cut`` and for the cut of the early exit."""
        longest = max(cut.max_length, self._first.length if self._first else 0)
        return self._encoder.ends(text, longest - SPECIAL)

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
        """The label of one review, and the words and sentences that decided it.

        Returns a dict of plain values:
            label, score: those of a call.
            toward: the label that positive weights support: the second of two labels, or the predicted one of more.
            margin: the log-odds of ``toward``, in nats.
            words: a list of ``{"word", "start", "end", "weight"}``.
            sentences: a list of ``{"start", "end", "weight", "alone"}``.
            unread: a list of ``{"start", "end", "why"}``, where ``why`` is ``"cut"`` (the middle of a long review) or
                ``"dropped"`` (markup).

        ``start`` and ``end`` are offsets in ``text``, in characters.

        The weight of a sentence is the decrease of the margin when the last layer of the model can't read that
        sentence. The weight of a word is the mean of two such values: the decrease when the last layer can't read the
        word, and the increase when it reads only that word. ``alone`` is the margin when it reads only that sentence.
        Source: ``edge_graph/subsets.py``. The int8 graph computes all this in the run that gives the label, whatever
        ``precision`` is. It drops no tokens in that run, because any token may get a weight. So for a bundle with token
        dropping, label and score are those of ``exact=True``.

        Raises InputError if the text is blank, BundleError if the bundle has no graph for explanations.

        >>> from edge_imdb import Sentiment
        >>> explained = Sentiment().explain("A great film.")
        >>> explained["label"], max(explained["words"], key=lambda word: word["weight"])["word"]
        ('pos', 'great')
        """
        text = text_of(text)
        located = locate(self._encoder, text)
        found = Attribution(located, partial(run_subsets, self._model), self._encoder.frame)
        places, temperature = list(range(len(located.ids))), self.bundle.temperature
        cut, first = self._default.cut, self._first if self._default.early_exit else None
        if self._default.refuse:
            self._read(text, self._default)
        if self._sliding_windows:
            kept = places if cut is None else cut.cut(places)
            scores = softmax(np.mean([found.read(window) for window in self._windows(kept)], axis=0), temperature)
        else:
            assert cut is not None
            sure = False
            if first is not None and min(len(places) + SPECIAL, cut.max_length) > first.length:
                temperature = first.temperature
                scores = softmax(found.read(Truncation(first.length, cut.head_ratio).cut(places)), temperature)
                sure = bool(scores.max() >= first.threshold)
            if not sure:
                found.forget()
                temperature = self.bundle.temperature
                scores = softmax(found.read(cut.cut(places)), temperature)
        best = int(np.argsort(-scores, kind="stable")[0])
        ranked = self._best([{"label": self.bundle.labels[best], "score": float(scores[best])}])
        return {**ranked, **found.result(text, self.labels, temperature)}

    def stream(self, texts: Iterable[Text | None], workers: int = 1, *, errors: Errors = "raise") -> Iterator[Label]:
        """Yield ``{"label", "score"}`` for each text, in order, as soon as it and all earlier ones are done.

        ``workers`` is the number of texts that run at the same time. ``threads=1`` with one worker per core maximises
        throughput; one worker with several threads minimises the latency of each text. With several workers, a
        separate thread reads ``texts``. ``errors`` is that of a call. Raises InputError as a call does.

        >>> from edge_imdb import Sentiment
        >>> [result["label"] for result in Sentiment(threads=1).stream(["great film", "what a bore"], workers=2)]
        ['pos', 'neg']
        """
        instead = (lambda: [_nothing()]) if check_errors(errors) else None
        ranked = each(lambda text: self._ranked(text, self._default, "softmax"), texts, workers, instead)
        return (self._best(labels) for labels in ranked)

    def _best(self, ranked: list[Label]) -> Label:
        first = ranked[0]
        # The null of an unusable text has no score.
        if first["score"] is not None and first["score"] < self._min_score:
            return {"label": UNSURE, "score": first["score"]}
        return first

    def _ranked(self, text: str, reading: _Reading, function: str) -> list[Label]:
        probabilities, scores = self._scores(text, reading, function)
        order = np.argsort(-probabilities, kind="stable")
        ranked: list[Label] = [{"label": self.bundle.labels[i], "score": float(scores[i])} for i in order]
        return ranked

    # The overloads overlap, because a str is an iterable of str, and a mapping is an iterable of its keys.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: str, *, top_k: int | None = ..., **options: Unpack[CallOptions]
    ) -> list[Label]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Mapping[str, Any], **options: Unpack[CallOptions]
    ) -> Label: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Mapping[str, Any], *, top_k: int | None, **options: Unpack[CallOptions]
    ) -> list[Label]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Iterator[Text], **options: Unpack[CallOptions]
    ) -> Iterator[Label]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Iterator[Text], *, top_k: int | None, **options: Unpack[CallOptions]
    ) -> Iterator[list[Label]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Collection[Text], **options: Unpack[CallOptions]
    ) -> list[Label]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Collection[Text], *, top_k: int | None, **options: Unpack[CallOptions]
    ) -> list[list[Label]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Iterable[Text] | MapStyle[Text], **options: Unpack[CallOptions]
    ) -> Iterable[Label]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Iterable[Text] | MapStyle[Text], *, top_k: int | None, **options: Unpack[CallOptions]
    ) -> Iterable[list[Label]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Iterator[Text | None], *, errors: Literal["null"], **options: Unpack[CallOptions]
    ) -> Iterator[LabelOrNull]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Collection[Text | None], *, errors: Literal["null"], **options: Unpack[CallOptions]
    ) -> list[LabelOrNull]: ...
    @overload
    def __call__(
        self,
        inputs: Text | Iterable[Text | None] | MapStyle[Text | None] | None,
        *,
        top_k: int | None = ...,
        return_all_scores: bool | None = ...,
        errors: Errors = ...,
        **options: Unpack[CallOptions],
    ) -> Any: ...
    def __call__(
        self,
        inputs: Any,
        *,
        top_k: int | None = UNSET,
        return_all_scores: bool | None = None,
        function_to_apply: str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        workers: int = 1,
        errors: Errors = "raise",
        **tokenizer_options: Any,
    ) -> Any:
        """Label one review or several. The results are those of transformers' text-classification pipeline.

        Arguments:
            inputs: a text; a mapping ``{"text": …}``; or several of these. A list, another sequence, an array or a
                Series gives a list of results. An iterator gives an iterator, and so does a data set: of PyTorch
                (``KeyDataset``), of the library datasets, or any class with ``__len__`` and ``__getitem__``.
            top_k: the number of labels per text, best first; None is all. The result of one text is then a list.
                Without it, the result is ``{"label", "score"}``, and for a str a list with only that.
            return_all_scores: deprecated in transformers; True gives all labels, in the order of ``labels``.
            function_to_apply: ``"softmax"`` (the default), ``"sigmoid"`` or ``"none"``, of the calibrated logits.
            truncation: True, ``"longest_first"`` or ``"only_first"`` cut a long review as the model was trained, to
                its head and tail; that is the default. False or ``"do_not_truncate"`` raise InputError instead, and
                turn early exit off.
            max_length: the number of tokens to cut to, with special tokens, at most as many as the model reads.
            workers: the number of texts that run at the same time, as in ``stream``.
            errors: with ``"null"``, an unusable text gets a label and a score of None.
            padding, batch_size, num_workers: accepted; they change no result, because each text runs by itself.

        Raises InputError, with the index of the text, if a text is blank or missing. Raises UsageError if an argument
        is wrong or can't be honoured.

        >>> from edge_imdb import Sentiment
        >>> sentiment = Sentiment()
        >>> sentiment("great film")[0]["label"]
        'pos'
        >>> [result["label"] for result in sentiment(["great film", "what a bore"], truncation=True, batch_size=8)]
        ['pos', 'neg']
        >>> [label["label"] for label in sentiment("great film", top_k=None)]
        ['pos', 'neg']
        """
        ranking = {**_DEFAULT_RANKING, **self._ranking, **_ranking(top_k, return_all_scores)}
        function = _function(function_to_apply) or self._function
        null = check_errors(errors)
        check_count("workers", workers)
        check_batches(batch_size, num_workers)
        check_options(type(self).__name__, tokenizer_options)
        reading = self._default
        if truncation is not None or max_length is not None:
            own = self._reading_options
            reading = self._reading(
                own[0] if truncation is None else truncation, own[1] if max_length is None else max_length
            )

        def label(text: str) -> Any:
            return self._shaped(self._ranked(text, reading, function), ranking)

        def nothing() -> Any:
            return self._shaped([_nothing()], ranking)

        if is_one(inputs):
            try:
                result = label(text_of(inputs))
            except InputError:
                if not null:
                    raise
                result = nothing()
            # As in transformers, only a mapping and a top_k of this call give the bare result.
            return result if isinstance(inputs, Mapping) or top_k is not UNSET else [result]
        return results_for(inputs, each(label, inputs, workers, nothing if null else None))

    def _shaped(self, ranked: list[Label], ranking: dict[str, Any]) -> Label | list[Label]:
        """The result of a text: its best label, or several."""
        if ranking["legacy"] and ranking["top_k"] == 1:
            return self._best(ranked)
        if ranking["legacy"] and len(ranked) > 1:
            # Without an explicit top_k, transformers doesn't sort.
            return sorted(ranked, key=lambda label: self.bundle.labels.index(label["label"]))
        return ranked[: ranking["top_k"]]


_DEFAULT_RANKING = {"top_k": 1, "legacy": True}


def _ranking(top_k: int | None, return_all_scores: bool | None) -> dict[str, Any]:
    """What ``top_k`` and ``return_all_scores`` ask for. As in transformers, ``top_k`` takes precedence."""
    if top_k is not UNSET:
        return {"top_k": None if top_k is None else check_count("top_k", top_k), "legacy": False}
    if return_all_scores is None:
        return {}
    warnings.warn(
        f"return_all_scores is deprecated: use top_k={None if return_all_scores else 1} instead.",
        UserWarning,
        stacklevel=3,
    )
    return {"top_k": None if return_all_scores else 1}


def _function(name: str | None) -> str | None:
    """The checked name of a function to apply to the logits. Raises UsageError."""
    if name is None:
        return None
    # An enum of transformers is a str, whose value is the name.
    lower = str(getattr(name, "value", name)).lower()
    if lower not in FUNCTIONS:
        raise UsageError(f"function_to_apply is {name!r:.80}: use {', '.join(map(repr, FUNCTIONS))}.")
    return lower


def _nothing() -> Label:
    """The placeholder result for ``errors="null"``."""
    nothing: Any = {"label": None, "score": None}
    return nothing  # type: ignore[no-any-return]
