"""FillMask: words for [MASK], called as a transformers pipeline is; several masks together; texts of any length."""

from __future__ import annotations

import heapq
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, InputError, UsageError
from .metrics import softmax
from .runtime import Loaded
from .text import SPECIAL, clean

TASK = "fill-mask"
MASK = "[MASK]"
# With so many masks to fill together, and so many candidates kept at each, a search runs the model
# 1 + 7 * beams + 8 * beams times at most: 151 times with ten.
JOINT_MASKS = 8
BEAMS = 10

Scores = NDArray[np.float64]


class FillMask:
    """A fill-mask bundle, loaded. One object may serve many threads.

    Arguments:
        model: folder of a bundle; None takes $EDGE_IMDB_MODELS/fill-mask, ./models/fill-mask, or the embedded one.
        provider: ``auto``, ``cpu``, ``cuda`` or another execution provider that the installed ONNX Runtime has.
        threads: threads that work on one text; None leaves one a physical core.
        precision: ``int8``, ``fp32``, or ``auto``: int8 on a CPU, fp32 elsewhere, whichever there is.

    Raises BundleError, ProviderError, UsageError or MissingDependencyError.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        provider: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
    ) -> None:
        self._loaded = Loaded(TASK, model, provider, threads, precision)
        self.bundle = self._loaded.bundle
        self.reason = self._loaded.reason
        self.precision = self._loaded.precision
        self.tokenizer = self._loaded.tokenizer
        mask = self.tokenizer.token_to_id(MASK)
        words = self.tokenizer.get_vocab_size(with_added_tokens=True)
        ends = self.tokenizer.encode("").ids
        if mask is None or len(ends) != SPECIAL or words > self._loaded.output[-1]:
            raise BundleError(
                f"The tokenizer of {self.bundle.path} is not its graph's (a BERT tokenizer with {MASK} and at most "
                f"{self._loaded.output[-1]} tokens): export the bundle again."
            )
        self._mask = int(mask)
        self._first, self._last = ends
        self._special = [index for index, token in self.tokenizer.get_added_tokens_decoder().items() if token.special]
        self._vocabulary: dict[str, int] | None = None
        self._targets: tuple[tuple[str, ...], NDArray[np.int64]] | None = None

    @property
    def provider(self) -> str:
        """The execution provider that the session got, as ONNX Runtime calls it."""
        return self._loaded.provider

    def logits(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """The logits at each ``[MASK]`` among token ids. *Shape:* ``(length,)`` to ``(masks, vocabulary)``.

        The ids are fed as they are, special tokens and all, at most ``bundle.truncation.max_length`` of them.
        """
        masks = np.asarray(ids) == self._mask
        if not masks.any():
            # ONNX Runtime's QGemm can't multiply no rows.
            return np.empty((0, self._loaded.output[-1]), dtype=np.float32)
        result = self._loaded.run(ids)
        # The standard graph has logits everywhere, the edge graph at [MASK] alone.
        return result[0, masks] if result.ndim == 3 else result

    def __call__(
        self,
        inputs: str | Sequence[str],
        *,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        joint: bool = False,
        beams: int = BEAMS,
    ) -> list[Any]:
        """Fill the masks of a text or of a list of texts; the results are those of transformers' fill-mask pipeline.

        For one ``[MASK]`` a list of ``top_k`` ``{"score", "token", "token_str", "sequence"}``, best first; for several
        a list of such lists, one a mask, each mask filled as if the others stayed; for a list of texts a list of
        results. ``targets`` are the only words to choose from; their scores stay shares of the whole vocabulary.

        ``joint`` fills several masks with each other in view: beam search from left to right, ``beams`` candidates
        kept at each mask, ranked by pseudo-log-likelihood (Salazar et al. 2020, "Masked Language Model Scoring",
        section 2): the sum, over the masks, of the log-probability of its word with all others filled. The result of a
        text is then a list of ``{"score", "tokens", "token_strs", "sequence"}``; the score is in nats.

        A text longer than the model reads keeps the window around its masks, or a window for each group of masks that
        fit into one. Raises InputError where a text has no mask, or too many or too scattered for ``joint``;
        UsageError for a wrong ``top_k``, ``beams`` or ``targets``.
        """
        for name, value in (("top_k", top_k), ("beams", beams)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name} is {value!r}: it must be 1 or more.")
        allowed = None if targets is None else self._ids_of(targets)
        if isinstance(inputs, str):
            return self._fill(inputs, top_k, allowed, joint, beams)
        results = [self._fill(text, top_k, allowed, joint, beams) for text in inputs]
        # As the pipeline does for a list of one text.
        return results[0] if isinstance(inputs, list) and len(results) == 1 else results

    def _fill(self, text: str, top_k: int, allowed: NDArray[np.int64] | None, joint: bool, beams: int) -> list[Any]:
        if not isinstance(text, str):
            raise InputError(f"A text is needed, not {type(text).__name__}: give a str.")
        ids = self.tokenizer.encode(clean(text)).ids
        masks = [place for place, token in enumerate(ids) if token == self._mask]
        if not masks:
            raise InputError(f"There is no {MASK} in the text: write {MASK} where a word is to be filled in.")
        groups = windows(
            len(ids) - SPECIAL, [place - 1 for place in masks], self.bundle.truncation.max_length - SPECIAL
        )
        if joint:
            if len(masks) > JOINT_MASKS:
                raise InputError(
                    f"The text has {len(masks)} masks: joint fills {JOINT_MASKS} at most; fill fewer, or without it."
                )
            if len(groups) > 1:
                raise InputError(
                    f"The masks stand further apart than the {self.bundle.truncation.max_length} tokens that the model "
                    "reads at once: fill them without joint, each in a window of its own."
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
                # The first row is the leftmost mask that is still there.
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
        """Tokens ``start`` to ``stop`` of what stands between the special tokens, and those about them."""
        return [self._first, *ids[1 + start : 1 + stop], self._last]

    def _decode(self, ids: list[int], skip: bool) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip))

    def _ids_of(self, targets: str | Sequence[str]) -> NDArray[np.int64]:
        """The ids of target words, each once. Raises UsageError for one that is not a single token."""
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
            raise UsageError(f"The target {word!r} is not one token of the vocabulary{pieces}: leave it out.")
        return int(encoding.ids[0])


def windows(length: int, masks: Sequence[int], size: int) -> list[tuple[int, int]]:
    """Spans of at most ``size`` tokens that hold every mask, each as many masks as fit, with the masks in its middle.

    ``masks`` are their places in order, from 0 to under ``length``. One span where all of them fit into one.
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
    """The indices of the ``count`` largest scores, best first, among ``allowed`` where that is given."""
    pool = scores if allowed is None else scores[allowed]
    count = min(count, len(pool))
    best = np.argpartition(-pool, count - 1)[:count]
    best = best[np.argsort(-pool[best], kind="stable")]
    return best if allowed is None else allowed[best]


def _log(probabilities: Scores) -> Scores:
    logs: Scores = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return logs
