"""FillMask: fills in masked words, separately or jointly. It is called like a transformers pipeline."""

from __future__ import annotations

import heapq
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypedDict, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from ...data.inputs import Errors, MapStyle, Text, check_count, check_errors, each, is_one, results_for, text_of
from ...data.metrics import softmax
from ...data.text import SPECIAL, clean
from ...errors import BlankError, BundleError, InputError, UsageError
from ...runtime.executor import Executor
from ...runtime.options import RuntimeOptions
from ..transformers_interface import (
    TransformersInterface,
    check_batches,
    check_length,
    check_options,
    is_cut,
    provider_of,
)

TASK = "fill-mask"
MASK = "[MASK]"
UNKNOWN = "[UNK]"
TOP_K = 5
# The maximum number of masks that can be filled jointly, and the default number of beams. A search runs the model at
# most 1 + 7 * beams + 8 * beams times: 151 times with ten beams.
JOINT_MASKS = 8
BEAMS = 10
# Longer than any word piece, and than the longest word that the tokenizer divides into pieces.
_TARGET = 1000

Scores = NDArray[np.float64]


# A list is invariant, so list[Text] would not take a list[str].
AText = TypeVar("AText", bound=Text)


class Fill(TypedDict):
    """A candidate for one mask: its probability, its token id, the token, and the text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


class JointFill(TypedDict):
    """Candidates for all masks of a text: their pseudo-log-likelihood in nats, token ids, tokens, and the text."""

    score: float
    tokens: list[int]
    token_strs: list[str]
    sequence: str


class FillMaskOptions(TypedDict, total=False):
    """Arguments of a call that don't change the type of its result."""

    top_k: int | None
    targets: str | Sequence[str] | None
    tokenizer_kwargs: Mapping[str, Any] | None
    beams: int
    batch_size: int | None
    num_workers: int | None
    workers: int


class Targets(NamedTuple):
    """Token ids of the target words, *shape* ``(tokens,)``, and a sentence for each word that was changed."""

    ids: NDArray[np.int64]
    notes: tuple[str, ...]


class FillMask(TransformersInterface):
    """An open fill-mask bundle. Threads can share it.

    Arguments:
        model: folder of a bundle, or its repository on the Hub, ``"user/repo"``, from which the necessary files are
            downloaded on first use. None is $EDGE_IMDB_MODELS/fill-mask, or else the embedded bundle.
        revision: branch, tag or commit of the repository; None is its main branch.
        provider: ``auto``, ``cpu``, ``cuda`` or another execution provider that the installed ONNX Runtime has.
        threads: number of threads per text; None is one per physical core that this process may use.
        precision: ``int8``, ``fp32`` or ``auto``. ``auto`` is int8 on a CPU and fp32 elsewhere, or the other precision
            if the bundle has only that.
        executor: what runs the graphs, instead of ONNX Runtime with ``provider`` and ``threads``.

    The other arguments are those of ``transformers.pipeline``:
        device: -1 or ``"cpu"``; 0, ``"cuda"`` or ``"cuda:0"``; or a ``torch.device``. An alternative to ``provider``.
        top_k, targets, tokenizer_kwargs: defaults for the calls.
        batch_size, num_workers: accepted; they change no result.
        task: ``"fill-mask"``.

    Raises BundleError, HubError, ProviderError, UsageError or MissingDependencyError.

    >>> from edge_imdb import FillMask
    >>> fill_mask = FillMask(top_k=2)
    >>> [fill["token_str"] for fill in fill_mask("This is a great [MASK]!")]
    ['movie', 'film']
    """

    bundle_task = TASK
    TASK_NAMES: ClassVar[tuple[str, ...]] = ("fill-mask",)

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        provider: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
        executor: Executor | None = None,
        device: Any = None,
        task: str | None = None,
        top_k: int | None = None,
        targets: str | Sequence[str] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **unsupported: Any,
    ) -> None:
        self._accept(task, batch_size, num_workers, unsupported)
        self._top_k = TOP_K if top_k is None else check_count("top_k", top_k)
        behaviour: dict[str, Any] = {
            # ``provider`` says where the model runs.
            "device": None,
            "task": task,
            "top_k": top_k,
            "targets": targets,
            "tokenizer_kwargs": tokenizer_kwargs,
            "batch_size": batch_size,
            "num_workers": num_workers,
        }
        options = RuntimeOptions(model, revision, precision, provider_of(device, provider), threads)
        super().__init__(options, executor, behaviour)
        self._tokenizer = self._model.tokenizer
        mask = self._tokenizer.token_to_id(MASK)
        words = self._tokenizer.get_vocab_size(with_added_tokens=True)
        ends = self._tokenizer.encode("").ids
        if mask is None or len(ends) != SPECIAL or words > self._model.output[-1]:
            raise BundleError(
                f"The tokenizer of {self.bundle.path} doesn't fit its graph, which needs a BERT tokenizer with {MASK} "
                f"and at most {self._model.output[-1]} tokens: export the bundle again."
            )
        self._mask = int(mask)
        self._first, self._last = ends
        self._special = [index for index, token in self._tokenizer.get_added_tokens_decoder().items() if token.special]
        self._vocabulary: dict[str, int] | None = None
        self._last_targets: tuple[tuple[str, ...], Targets] | None = None
        self._tokenizer_kwargs = dict(tokenizer_kwargs or {})
        self._longest(self._tokenizer_kwargs)
        self._default_targets = None if targets is None else self.target_ids(targets)
        if self._default_targets is not None:
            _warn(self._default_targets.notes)

    def wrap_tokenizer(self, wrap: Callable[[Any], Any]) -> None:
        """Replace the tokenizer with ``wrap(tokenizer)``."""
        self._tokenizer = wrap(self._tokenizer)

    def logits(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """The logits at each ``[MASK]`` of a row of token ids. *Shape:* ``(length,)`` to ``(masks, vocabulary)``.

        ``ids`` must contain the special tokens. Raises UsageError if there are more ids than
        ``bundle.truncation.max_length``, or if an id is out of range.

        >>> from edge_imdb import FillMask
        >>> fill_mask = FillMask()
        >>> fill_mask.logits(fill_mask.tokenizer("a [MASK] plot")["input_ids"]).shape
        (1, 30522)
        """
        row, words = np.asarray(ids), int(self._model.output[-1])
        longest = self.bundle.truncation.max_length
        if row.ndim != 1 or not 0 < row.size <= longest or not np.issubdtype(row.dtype, np.integer):
            raise UsageError(
                f"The token ids are {row.dtype} of shape {row.shape}: give 1 to {longest} whole numbers, special "
                "tokens included."
            )
        if not 0 <= row.min() <= row.max() < words:
            wrong = row.min() if row.min() < 0 else row.max()
            raise UsageError(f"The token id {wrong} is out of range: the vocabulary has the ids 0 to {words - 1}.")
        masks = row == self._mask
        if not masks.any():
            # ONNX Runtime's QGemm can't multiply an empty matrix.
            return np.empty((0, self._model.output[-1]), dtype=np.float32)
        result = self._model.run(ids)
        # The standard graph gives logits at every position, the edge graph only at [MASK].
        return result[0, masks] if result.ndim == 3 else result

    # The result types hold for texts with one mask. Without ``joint``, a text with several masks gives a list of such
    # results. As in transformers, a list of one text gives the result of that text, so a list has two result types.
    # Other collections, such as a tuple, always give a list of results.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Text, *, joint: Literal[False] = ..., **options: Unpack[FillMaskOptions]
    ) -> list[Fill]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Iterator[Text], *, joint: Literal[False] = ..., **options: Unpack[FillMaskOptions]
    ) -> Iterator[list[Fill]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: list[AText], *, joint: Literal[False] = ..., **options: Unpack[FillMaskOptions]
    ) -> list[Fill] | list[list[Fill]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Collection[Text], *, joint: Literal[False] = ..., **options: Unpack[FillMaskOptions]
    ) -> list[list[Fill]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        inputs: Iterable[Text] | MapStyle[Text],
        *,
        joint: Literal[False] = ...,
        **options: Unpack[FillMaskOptions],
    ) -> Iterable[list[Fill]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Text, *, joint: Literal[True], **options: Unpack[FillMaskOptions]
    ) -> list[JointFill]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Iterator[Text], *, joint: Literal[True], **options: Unpack[FillMaskOptions]
    ) -> Iterator[list[JointFill]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: list[AText], *, joint: Literal[True], **options: Unpack[FillMaskOptions]
    ) -> list[JointFill] | list[list[JointFill]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Collection[Text], *, joint: Literal[True], **options: Unpack[FillMaskOptions]
    ) -> list[list[JointFill]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Iterable[Text] | MapStyle[Text], *, joint: Literal[True], **options: Unpack[FillMaskOptions]
    ) -> Iterable[list[JointFill]]: ...
    @overload
    def __call__(
        self,
        inputs: Text | Iterable[Text | None] | MapStyle[Text | None] | None,
        *,
        joint: bool = ...,
        errors: Errors = ...,
        **options: Unpack[FillMaskOptions],
    ) -> Any: ...
    def __call__(
        self,
        inputs: Any,
        *,
        top_k: int | None = None,
        targets: str | Sequence[str] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        joint: bool = False,
        beams: int = BEAMS,
        batch_size: int | None = None,
        num_workers: int | None = None,
        workers: int = 1,
        errors: Errors = "raise",
        **tokenizer_options: Any,
    ) -> Any:
        """Fill the masks of one text or of several. The results are those of transformers' fill-mask pipeline.

        A text with one ``[MASK]`` gives a list of ``top_k`` ``{"score", "token", "token_str", "sequence"}``, best
        first. A text with several masks gives a list of such lists, each for one mask, as if the other masks stayed.

        Arguments:
            inputs: those of ``Sentiment``. As in transformers, a list of one text gives the result of that text.
            top_k: the number of candidates per mask; None is 5, or the value given to the constructor.
            targets: the only candidates. Their scores are still probabilities over the whole vocabulary. As in
                transformers, a word that is not in the vocabulary is replaced with its first word piece, and a warning
                says so.
            joint: fill several masks so that the words fit each other. A beam search from left to right keeps ``beams``
                candidates. They are ranked by pseudo-log-likelihood (Salazar et al. 2020, "Masked Language Model
                Scoring", section 2): the sum, over the masks, of the log-probability of the word when only its mask is
                left. The result of a text is a list of ``{"score", "tokens", "token_strs", "sequence"}``, with scores
                in nats.
            tokenizer_kwargs: ``truncation``, ``max_length`` and ``padding``, as in ``Sentiment``. A long text keeps the
                window of ``max_length`` tokens around its masks, or a window per group of masks that fits into one.
            workers: the number of texts that run at the same time.
            errors: with ``"null"``, an unusable text gets None.
            batch_size, num_workers: accepted; they change no result, because each text runs by itself.

        Raises InputError, with the index of the text, if a text has no mask, or too many or too scattered masks for
        ``joint``. Raises UsageError if an argument is wrong or can't be honoured, or if no target is left.

        >>> from edge_imdb import FillMask
        >>> fill_mask = FillMask()
        >>> [fill["token_str"] for fill in fill_mask("This is a great [MASK]!", top_k=2)]
        ['movie', 'film']
        >>> [fill["token_str"] for fill in fill_mask("A [MASK] plot.", targets=["thin", "clever"])]
        ['clever', 'thin']
        >>> fill_mask("A [MASK] plot and [MASK] acting.", joint=True, top_k=1)[0]["sequence"]
        'a better plot and better acting.'
        """
        top_k, beams = self._top_k if top_k is None else check_count("top_k", top_k), check_count("beams", beams)
        check_count("workers", workers)
        check_batches(batch_size, num_workers)
        null = check_errors(errors)
        longest, refuse = self._longest({**self._tokenizer_kwargs, **(tokenizer_kwargs or {}), **tokenizer_options})
        if targets is None:
            allowed = None if self._default_targets is None else self._default_targets.ids
        else:
            allowed, notes = self.target_ids(targets)
            _warn(notes)

        def fill(text: str) -> list[Any] | None:
            return self._fill(text, top_k, allowed, joint, beams, longest, refuse)

        if is_one(inputs):
            try:
                return fill(text_of(inputs))
            except InputError:
                if null:
                    return None
                raise
        results = results_for(inputs, each(fill, inputs, workers, (lambda: None) if null else None))
        # As in transformers.
        return results[0] if isinstance(inputs, list) and isinstance(results, list) and len(results) == 1 else results

    def _longest(self, tokenizer_kwargs: dict[str, Any]) -> tuple[int, bool]:
        """The number of tokens to read, and whether a longer text is refused. Raises UsageError."""
        options = dict(tokenizer_kwargs)
        cut, max_length = is_cut(options.pop("truncation", None)), options.pop("max_length", None)
        check_options(type(self).__name__, options)
        most = self.bundle.truncation.max_length
        longest = check_length(max_length if cut else None, most, stacklevel=5)
        if longest <= SPECIAL:
            raise UsageError(f"max_length is {longest}: it must be 3 or more, because two tokens are special ones.")
        return longest, not cut

    def _fill(
        self,
        text: str,
        top_k: int,
        allowed: NDArray[np.int64] | None,
        joint: bool,
        beams: int,
        longest: int,
        refuse: bool,
    ) -> list[Any]:
        ids = self._tokenizer.encode(clean(text)).ids
        masks = [place for place, token in enumerate(ids) if token == self._mask]
        if len(ids) == SPECIAL:
            raise BlankError("The text is blank: give one with visible characters.")
        if not masks:
            hint = " (<mask> is the placeholder of other models)" if "<mask>" in text else ""
            raise InputError(f"The text has no {MASK}: write {MASK} in place of the word to fill in{hint}.")
        if refuse and len(ids) > longest:
            raise InputError(
                f"The text has {len(ids)} tokens, this model reads at most {longest}, and truncation is off: leave "
                "truncation out to read the part around the masks."
            )
        groups = windows(len(ids) - SPECIAL, [place - 1 for place in masks], longest - SPECIAL)
        if joint:
            if len(masks) > JOINT_MASKS:
                raise InputError(
                    f"The text has {len(masks)} masks, and joint can fill at most {JOINT_MASKS}: use fewer, or leave "
                    "joint out."
                )
            if len(groups) > 1:
                raise InputError(
                    f"The masks are further apart than the {longest} tokens that are read at once: leave joint out to "
                    "fill each in a window of its own."
                )
            return self._fill_together(ids, masks, groups[0], top_k, allowed, max(beams, top_k))
        filled: list[list[dict[str, Any]]] = []
        for start, stop in groups:
            # A window may also hold masks that the window before it has filled.
            inside = [place for place in masks if start < place <= stop]
            for place, scores in zip(inside, softmax(self.logits(self._window(ids, start, stop))), strict=True):
                if place < masks[len(filled)]:
                    continue
                filled.append(
                    [
                        {
                            "score": float(scores[token]),
                            "token": int(token),
                            "token_str": self._decode([int(token)], skip=False),
                            "sequence": self._decode([*ids[:place], int(token), *ids[place + 1 :]], len(masks) == 1),
                        }
                        for token in _best(scores, top_k, allowed)
                    ]
                )
        return filled[0] if len(masks) == 1 else filled

    def _fill_together(
        self,
        ids: list[int],
        masks: list[int],
        window: tuple[int, int],
        top_k: int,
        allowed: NDArray[np.int64] | None,
        beams: int,
    ) -> list[dict[str, Any]]:
        start, stop = window
        cut = self._window(ids, start, stop)
        places = [place - start for place in masks]
        kept: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for _ in places:
            candidates = []
            for score, tokens in kept:
                # The first row belongs to the leftmost mask that isn't filled yet.
                logs = _log(softmax(self.logits(_filled(cut, places, tokens))[0]))
                logs[self._special] = -np.inf
                candidates += [(score + float(logs[t]), (*tokens, int(t))) for t in _best(logs, beams, allowed)]
            kept = heapq.nlargest(beams, candidates)
        ranked = sorted(
            ((self._pseudo_log_likelihood(cut, places, tokens), tokens) for _, tokens in kept), reverse=True
        )
        return [
            {
                "score": score,
                "tokens": list(tokens),
                "token_strs": [self._decode([token], skip=False) for token in tokens],
                "sequence": self._decode(_filled(ids, masks, tokens), skip=True),
            }
            for score, tokens in ranked[:top_k]
        ]

    def _pseudo_log_likelihood(self, cut: list[int], places: list[int], tokens: tuple[int, ...]) -> float:
        whole = _filled(cut, places, tokens)
        total = 0.0
        for place, token in zip(places, tokens, strict=True):
            hidden = [*whole[:place], self._mask, *whole[place + 1 :]]
            total += float(_log(softmax(self.logits(hidden)[0]))[token])
        return total

    def _window(self, ids: list[int], start: int, stop: int) -> list[int]:
        """Tokens ``start`` to ``stop``, counted without the special tokens, between the special tokens."""
        return [self._first, *ids[1 + start : 1 + stop], self._last]

    def _decode(self, ids: list[int], skip: bool) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip))

    def target_ids(self, targets: str | Sequence[str]) -> Targets:
        """The token ids of target words, without duplicates, and a sentence about each word that had to be changed.

        As in transformers, a word that is not a single token is replaced with its first word piece, which is ``[UNK]``
        for characters that the tokenizer doesn't know, and a word without any token is left out. Raises UsageError if a
        target is not a str, or if none is left.

        >>> from edge_imdb import FillMask
        >>> FillMask().target_ids(["unwatchable", "great"]).notes
        ("The target 'unwatchable' is not in the vocabulary: using its first word piece, 'un'.",)
        """
        words = (targets,) if isinstance(targets, str) else tuple(targets)
        if self._last_targets is not None and self._last_targets[0] == words:
            return self._last_targets[1]
        if self._vocabulary is None:
            self._vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        ids: dict[int, None] = {}
        notes: dict[str, None] = {}
        for word in words:
            if not isinstance(word, str):
                raise UsageError(f"The target {word!r:.80} is not a str: give words.")
            token = self._vocabulary.get(word)
            if token is None:
                # Only the first piece counts, so a very long target needn't be tokenised to its end.
                pieces = self._tokenizer.encode(word.lstrip()[:_TARGET], add_special_tokens=False)
                if not pieces.ids:
                    notes[f"The target {word!r:.80} has no token: it is left out."] = None
                    continue
                token = pieces.ids[0]
                if len(pieces.ids) > 1 or pieces.tokens[0] == UNKNOWN:
                    note = f"The target {word!r:.80} is not in the vocabulary: using its first word piece,"
                    notes[f"{note} {pieces.tokens[0]!r}."] = None
            ids[int(token)] = None
        if not ids:
            raise UsageError("targets has no word to choose from: give at least one.")
        found = Targets(np.fromiter(ids, dtype=np.int64), tuple(notes))
        self._last_targets = (words, found)
        return found


def _warn(notes: Iterable[str]) -> None:
    for note in notes:
        # The caller of the pipeline.
        warnings.warn(note, UserWarning, stacklevel=3)


def windows(length: int, masks: Sequence[int], size: int) -> list[tuple[int, int]]:
    """Spans of at most ``size`` tokens that together contain every mask. Each has as many masks as fit, in its middle.

    ``masks`` has the positions of the masks, in order, from 0 to ``length - 1``.

    >>> windows(100, [10, 90], 20)
    [(0, 20), (80, 100)]
    """
    spans = []
    index = 0
    while index < len(masks):
        first = masks[index]
        while index < len(masks) and masks[index] - first < size:
            index += 1
        last = masks[index - 1]
        start = max(0, min((first + last + 1 - size) // 2, length - size))
        stop = min(length, start + size)
        spans.append((start, stop))
    return spans


def _filled(ids: list[int], places: list[int], tokens: Sequence[int]) -> list[int]:
    """``ids`` with ``tokens`` at the first ``len(tokens)`` of ``places``."""
    filled = list(ids)
    for place, token in zip(places, tokens, strict=False):
        filled[place] = token
    return filled


def _best(scores: Scores, count: int, allowed: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The indices of the ``count`` largest scores, best first, among ``allowed`` if that is given."""
    pool = scores if allowed is None else scores[allowed]
    count = min(count, len(pool))
    best = np.argpartition(-pool, count - 1)[:count]
    best = best[np.argsort(-pool[best], kind="stable")]
    return best if allowed is None else allowed[best]


def _log(probabilities: Scores) -> Scores:
    logs: Scores = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return logs
