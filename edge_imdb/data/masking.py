"""Cut reviews into chunks and choose the words to mask, by the same rule in training and in every measurement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, InputError
from .text import clean

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Perplexity is always measured on chunks of this many tokens, with this share of words masked and this seed, whatever a
# model was trained on, because figures of two models are comparable only if the masked words are the same.
EVALUATION_LENGTH = 256
EVALUATION_PROBABILITY = 0.15
EVALUATION_SEED = 0
IGNORED = -100
_BATCH = 1000

Ids = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Vocabulary:
    """What masking needs to know about a WordPiece vocabulary. *Shape:* ``starts`` and ``special`` ``(vocabulary,)``.

    ``starts`` is true for tokens that begin a word, false for those that continue one (``##ing``).
    """

    starts: Mask
    special: Mask
    mask_id: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, size: int | None = None) -> Vocabulary:
        """Read it from a tokenizer; ``size`` is the model's, if that has more rows. Raises InputError."""
        mask_id = tokenizer.token_to_id("[MASK]")
        if mask_id is None:
            raise InputError("The tokenizer has no [MASK] token: use a checkpoint with a BERT tokenizer.")
        tokens = tokenizer.get_vocab(with_added_tokens=True)
        size = max(size or 0, max(tokens.values()) + 1)
        starts, special = np.ones(size, dtype=np.bool_), np.zeros(size, dtype=np.bool_)
        for token, index in tokens.items():
            starts[index] = not token.startswith("##")
        for index, token in tokenizer.get_added_tokens_decoder().items():
            special[index] = token.special
        return cls(starts, special, mask_id)


def join_chunks(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> Ids:
    """Clean and tokenise ``texts``, each with its ``[CLS]`` and ``[SEP]``, join and cut. *Shape:* ``(chunks, length)``.

    Fewer than ``length`` tokens left over at the end are dropped, unless there are no others: then they are the only
    chunk. ``tokenizer`` must not truncate or pad. Raises DataError if there are no tokens at all.
    """
    rows: list[int] = []
    chunks: list[Ids] = []
    for start in range(0, len(texts), _BATCH):
        batch = [cleaned for text in texts[start : start + _BATCH] if (cleaned := clean(text))]
        for encoding in tokenizer.encode_batch_fast(batch):
            rows += encoding.ids
        whole = len(rows) // length * length
        chunks.append(np.asarray(rows[:whole], dtype=np.int32).reshape(-1, length))
        rows = rows[whole:]
    joined = np.concatenate(chunks) if chunks else np.empty((0, length), dtype=np.int32)
    if not len(joined):
        if not rows:
            raise DataError("The texts are blank: give at least one with visible characters.")
        joined = np.asarray([rows], dtype=np.int32)
    return joined


def sentence_chunks(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> Ids:
    """Chunks that each begin as a text does: with ``[CLS]`` and the start of a sentence. *Shape:* ``(chunks, length)``.

    Texts are cleaned, tokenised and joined as in ``join_chunks``. If the next chunk would begin inside a sentence, it
    goes back to the start of that sentence, so the words in between are in both chunks; a sentence of more than a
    quarter of ``length`` is cut. What is left over at the end is dropped.
    """
    first = tokenizer.token_to_id("[CLS]")
    ends = [index for mark in (".", "!", "?") if (index := tokenizer.token_to_id(mark)) is not None]
    cleaned = [kept for text in texts if (kept := clean(text))]
    rows: list[int] = []
    for start in range(0, len(cleaned), _BATCH):
        for encoding in tokenizer.encode_batch_fast(cleaned[start : start + _BATCH]):
            rows += encoding.ids
    ids = np.asarray(rows, dtype=np.int32)
    # For each position, the last one up to it at which a review or a sentence begins. "..." ends a sentence only once.
    ended = np.isin(ids, ends)
    begins = np.zeros(len(ids) + 1, dtype=np.bool_)
    begins[1:-1] = ended[:-1] & ~ended[1:]
    begins[:-1] |= ids == first
    latest = np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
    chunks: list[Ids] = []
    at = 0
    while at < len(ids):
        row = (
            ids[at : at + length]
            if ids[at] == first
            else np.concatenate([[np.int32(first)], ids[at : at + length - 1]])
        )
        if len(row) < length:
            break
        chunks.append(row.astype(np.int32))
        end = at + length - (ids[at] != first)
        at = int(latest[end]) if end - latest[end] <= length // 4 else end
    return np.stack(chunks) if chunks else np.empty((0, length), dtype=np.int32)


def choose(ids: Ids, vocabulary: Vocabulary, probability: float, draws: NDArray[np.uint64], unit: str = "word") -> Mask:
    """The positions to predict: each word, or each token, is chosen independently with ``probability``.

    *Shape:* ``ids``, ``draws`` and the result ``(chunks, length)``; a word uses the draw of its first token. Special
    tokens are never chosen. Source: Devlin et al. 2019, section 3.1, and the whole-word masking that BERT's
    authors added in May 2019.
    """
    if unit == "word":
        starts = vocabulary.starts[ids]
        starts[:, 0] = True
        first = np.maximum.accumulate(np.where(starts, np.arange(ids.shape[1]), 0), axis=1)
        draws = np.take_along_axis(draws, first, axis=1)
    return (draws < _threshold(probability)) & ~vocabulary.special[ids]


def replace(
    ids: Ids, chosen: Mask, vocabulary: Vocabulary, policy: str, fate: NDArray[np.uint64], other: NDArray[np.uint64]
) -> Ids:
    """What the model sees in place of ``chosen``. *Shape:* all ``(chunks, length)``.

    ``mask`` puts ``[MASK]`` everywhere; ``80-10-10`` puts it in 80 %, a random token in 10 % and leaves 10 %.
    """
    if policy == "mask":
        return np.where(chosen, np.int32(vocabulary.mask_id), ids)
    random = (other % np.uint64(len(vocabulary.starts))).astype(np.int32)
    seen = np.where(fate < _threshold(0.8), np.int32(vocabulary.mask_id), random)
    return np.where(chosen & (fate < _threshold(0.9)), seen, ids)


def draw(keys: Iterable[tuple[int, ...]], count: int) -> NDArray[np.uint64]:
    """``count`` 64-bit numbers for each key. *Shape:* ``(keys, count)``.

    They come straight from PCG64, whose stream NumPy promises not to change (NEP 19). The distributions of a Generator
    may change.
    """
    return np.stack([np.random.PCG64(np.random.SeedSequence(key)).random_raw(count) for key in keys])


def evaluation_batches(
    chunks: Ids, vocabulary: Vocabulary, rows: Sequence[int], size: int
) -> Iterator[tuple[Ids, Ids]]:
    """Yield ``(ids, labels)`` of the chunks ``rows``, ``size`` at a time, masked in the one way that all figures use.

    *Shape:* both ``(size, length)``; a label is IGNORED (-100) if the position is not masked.
    """
    for start in range(0, len(rows), size):
        index = np.asarray(rows[start : start + size])
        ids = chunks[index]
        draws = draw(((EVALUATION_SEED, int(row)) for row in index), ids.shape[1])
        chosen = choose(ids, vocabulary, EVALUATION_PROBABILITY, draws)
        yield np.where(chosen, np.int32(vocabulary.mask_id), ids), np.where(chosen, ids, np.int32(IGNORED))


def _threshold(probability: float) -> np.uint64:
    return np.uint64(min(int(probability * 2.0**64), 2**64 - 1))
