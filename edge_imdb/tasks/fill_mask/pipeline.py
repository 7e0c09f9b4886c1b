"""FillMask: fill in masked words, called like a transformers pipeline; several masks together; texts of any length."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypedDict, cast, overload

import numpy as np
from numpy.typing import NDArray

from ...data.inputs import Errors, Text, check_count, check_errors, each, is_one, text_of
from ...data.metrics import softmax
from ...data.text import SPECIAL, clean
from ...errors import BlankError, BundleError, InputError, UsageError
from ...runtime.executor import Executor
from ...runtime.model import Pipeline

TASK = "fill-mask"
MASK = "[MASK]"
# The most masks that can be filled together, and the default number of candidates kept at each. A search runs the model
# at most 1 + 7 * beams + 8 * beams times: 151 times with ten beams.
JOINT_MASKS = 8
BEAMS = 10

Scores = NDArray[np.float64]


class Fill(TypedDict):
    """A word for one mask: its share of the probability, its id, itself, and the text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


class JointFill(TypedDict):
    """Words for all masks of a text: their pseudo-log-likelihood in nats, their ids, themselves, the text with them."""

    score: float
    tokens: list[int]
    token_strs: list[str]
    sequence: str


class FillMask(Pipeline):
    """A loaded fill-mask bundle. Many threads can share one object.

    Arguments:
        model: folder of a bundle, or its repository on the Hub, ``"user/repo"``, of which the files that are needed are
            fetched once; None takes $EDGE_IMDB_MODELS/fill-mask, or the embedded one.
        revision: branch, tag or commit of the repository; None is its main branch.
        provider: ``auto``, ``cpu``, ``cuda`` or another execution provider that the installed ONNX Runtime has.
        threads: number of threads per text; None means one per physical core that this process may use.
        precision: ``int8``, ``fp32`` or ``auto``. ``auto`` prefers int8 on a CPU and fp32 elsewhere, and takes the
            other one if the bundle has only that.
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
        executor: Executor | None = None,
    ) -> None:
        super().__init__(TASK, model, revision, provider, threads, precision, executor, behaviour={})
        self.tokenizer = self._model.tokenizer
        mask = self.tokenizer.token_to_id(MASK)
        words = self.tokenizer.get_vocab_size(with_added_tokens=True)
        ends = self.tokenizer.encode("").ids
        if mask is None or len(ends) != SPECIAL or words > self._model.output[-1]:
            raise BundleError(
                f"The tokenizer of {self.bundle.path} doesn't fit its graph, which needs a BERT tokenizer with {MASK} "
                f"and at most {self._model.output[-1]} tokens: export the bundle again."
            )
        self._mask = int(mask)
        self._first, self._last = ends
        self._special = [index for index, token in self.tokenizer.get_added_tokens_decoder().items() if token.special]
        self._vocabulary: dict[str, int] | None = None
        self._targets: tuple[tuple[str, ...], NDArray[np.int64]] | None = None

    def wrap_tokenizer(self, wrap: Callable[[Any], Any]) -> None:
        """Replace the tokenizer with ``wrap(tokenizer)``."""
        self.tokenizer = wrap(self.tokenizer)

    def logits(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """The logits at each ``[MASK]`` of a row of token ids. *Shape:* ``(length,)`` to ``(masks, vocabulary)``.

        The ids are fed as they are, special tokens and all, at most ``bundle.truncation.max_length`` of them. Raises
        UsageError if there are more, or if one is out of range.
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

    # The result of a text with one mask; with several, and without ``joint``, it is a list of such results.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        inputs: Text,
        *,
        joint: Literal[False] = ...,
        top_k: int = ...,
        targets: str | Sequence[str] | None = ...,
        beams: int = ...,
        batch_size: int | None = ...,
        workers: int = ...,
    ) -> list[Fill]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        inputs: Iterator[Text],
        *,
        joint: Literal[False] = ...,
        top_k: int = ...,
        targets: str | Sequence[str] | None = ...,
        beams: int = ...,
        batch_size: int | None = ...,
        workers: int = ...,
    ) -> Iterator[list[Fill]]: ...
    @overload
    def __call__(
        self,
        inputs: Iterable[Text],
        *,
        joint: Literal[False] = ...,
        top_k: int = ...,
        targets: str | Sequence[str] | None = ...,
        beams: int = ...,
        batch_size: int | None = ...,
        workers: int = ...,
    ) -> list[list[Fill]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        inputs: Text,
        *,
        joint: Literal[True],
        top_k: int = ...,
        targets: str | Sequence[str] | None = ...,
        beams: int = ...,
        batch_size: int | None = ...,
        workers: int = ...,
    ) -> list[JointFill]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        inputs: Iterator[Text],
        *,
        joint: Literal[True],
        top_k: int = ...,
        targets: str | Sequence[str] | None = ...,
        beams: int = ...,
        batch_size: int | None = ...,
        workers: int = ...,
    ) -> Iterator[list[JointFill]]: ...
    @overload
    def __call__(
        self,
        inputs: Iterable[Text],
        *,
        joint: Literal[True],
        top_k: int = ...,
        targets: str | Sequence[str] | None = ...,
        beams: int = ...,
        batch_size: int | None = ...,
        workers: int = ...,
    ) -> list[list[JointFill]]: ...
    @overload
    def __call__(
        self,
        inputs: Text | Iterable[Text | None] | None,
        *,
        joint: bool = ...,
        errors: Errors = ...,
        top_k: int = ...,
        targets: str | Sequence[str] | None = ...,
        beams: int = ...,
        batch_size: int | None = ...,
        workers: int = ...,
    ) -> Any: ...
    def __call__(
        self,
        inputs: Text | Iterable[Text | None] | None,
        *,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        joint: bool = False,
        beams: int = BEAMS,
        batch_size: int | None = None,
        workers: int = 1,
        errors: Errors = "raise",
    ) -> Any:
        """Fill the masks of a text or of several; the results are those of transformers' fill-mask pipeline.

        ``inputs`` is what ``Sentiment`` takes; an iterator of texts gives an iterator of results.

        A text with one ``[MASK]`` gives a list of ``top_k`` ``{"score", "token", "token_str", "sequence"}``, best
        first. A text with several masks gives one such list per mask, each mask filled as if the others stayed masked.
        A list of texts gives a list of results. With ``targets``, only these words are candidates; their scores are
        still probabilities over the whole vocabulary.

        ``joint`` fills several masks together, so that the words fit each other. A beam search from left to right keeps
        ``beams`` candidates at each mask. They are ranked by their pseudo-log-likelihood (Salazar et al. 2020, "Masked
        Language Model Scoring", section 2): the sum, over the masks, of the log-probability of the word with all other
        masks filled. The result of a text is then a list of ``{"score", "tokens", "token_strs", "sequence"}``, with the
        score in nats.

        ``workers`` is how many texts run at a time; ``batch_size`` is taken as a pipeline takes it and changes nothing.
        ``errors="null"`` gives a text that can't be filled None for a result.

        A text longer than the model reads keeps the window around its masks, or a window for each group of masks that
        fit into one. Raises InputError if a text has no mask, or too many or too scattered for ``joint``, and
        names its index in ``inputs``; UsageError for a wrong ``top_k``, ``beams`` or ``targets``.
        """
        top_k, beams = check_count("top_k", top_k), check_count("beams", beams)
        check_count("workers", workers)
        if batch_size is not None:
            check_count("batch_size", batch_size)
        null = check_errors(errors)
        allowed = None if targets is None else self._ids_of(targets)

        def fill(text: str) -> list[Any] | None:
            return self._fill(text, top_k, allowed, joint, beams)

        if is_one(inputs):
            try:
                return fill(text_of(inputs))
            except InputError:
                if null:
                    return None
                raise
        results = each(fill, cast(Iterable[object], inputs), workers, (lambda: None) if null else None)
        if isinstance(inputs, Iterator):
            return results
        several = list(results)
        # As the pipeline does if the list has one text.
        return several[0] if isinstance(inputs, list) and len(several) == 1 else several

    def _fill(self, text: str, top_k: int, allowed: NDArray[np.int64] | None, joint: bool, beams: int) -> list[Any]:
        ids = self.tokenizer.encode(clean(text)).ids
        masks = [place for place, token in enumerate(ids) if token == self._mask]
        if len(ids) == SPECIAL:
            raise BlankError("The text is blank: give one with visible characters.")
        if not masks:
            raise InputError(f"The text has no {MASK}: write {MASK} in place of the word to fill in.")
        groups = windows(
            len(ids) - SPECIAL, [place - 1 for place in masks], self.bundle.truncation.max_length - SPECIAL
        )
        if joint:
            if len(masks) > JOINT_MASKS:
                raise InputError(
                    f"The text has {len(masks)} masks, and joint can fill at most {JOINT_MASKS}: use fewer, or leave "
                    "joint out."
                )
            if len(groups) > 1:
                raise InputError(
                    f"The masks are further apart than the {self.bundle.truncation.max_length} tokens that the model "
                    "can read at once: leave joint out to fill each in a window of its own."
                )
            return self._fill_together(ids, masks, groups[0], top_k, allowed, max(beams, top_k))
        filled: list[list[dict[str, Any]]] = []
        for start, stop in groups:
            for scores in softmax(self.logits(self._window(ids, start, stop))):
                place = masks[len(filled)]
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
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip))

    def _ids_of(self, targets: str | Sequence[str]) -> NDArray[np.int64]:
        """The ids of target words, without duplicates. Raises UsageError if a word is not a single token."""
        words = (targets,) if isinstance(targets, str) else tuple(targets)
        if self._targets is not None and self._targets[0] == words:
            return self._targets[1]
        if not words:
            raise UsageError("targets is empty: give at least one word to choose from.")
        if self._vocabulary is None:
            self._vocabulary = self.tokenizer.get_vocab(with_added_tokens=True)
        ids: dict[int, None] = {}
        for word in words:
            token = self._vocabulary.get(word) if isinstance(word, str) else None
            ids[token if token is not None else self._token(word)] = None
        found = np.fromiter(ids, dtype=np.int64)
        self._targets = (words, found)
        return found

    def _token(self, word: object) -> int:
        encoding = self.tokenizer.encode(word, add_special_tokens=False) if isinstance(word, str) else None
        if encoding is None or len(encoding.ids) != 1 or encoding.tokens[0] == "[UNK]":
            pieces = f" (its pieces are {', '.join(encoding.tokens)})" if encoding and len(encoding.ids) > 1 else ""
            raise UsageError(f"The target {word!r} is not a single token of the vocabulary{pieces}: leave it out.")
        return int(encoding.ids[0])


def windows(length: int, masks: Sequence[int], size: int) -> list[tuple[int, int]]:
    """Spans of at most ``size`` tokens that together hold every mask, each with as many masks as fit, in its middle.

    ``masks`` are the positions of the masks in order, from 0 to under ``length``. If all fit into one span, there is
    only one.
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
    """``ids`` with the first ``len(tokens)`` places filled."""
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
