"""evaluate_fill_mask: the quality and the speed of a fill-mask bundle on texts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ...data.masking import EVALUATION_LENGTH, IGNORED, Vocabulary, evaluation_batches, join_chunks, sentence_chunks
from ...errors import DataError
from .pipeline import FillMask


def evaluate_fill_mask(
    model: FillMask,
    texts: Sequence[str],
    progress: Callable[[range], Iterable[int]] = lambda rows: rows,
    sentence_starts: bool = False,
    rows: dict[str, list[Any]] | None = None,
) -> dict[str, Any]:
    """Perplexity, top-1 and top-5 accuracy on fixed masks, and chunks per second, one chunk at a time.

    ``texts`` are joined and cut into chunks of 256 tokens, and 15 % of their words are masked with a fixed seed, the
    same for every model. With ``sentence_starts`` each chunk begins with ``[CLS]`` and the start of a sentence instead
    of anywhere. Perplexity is the exponential of the mean cross-entropy over the masked tokens. A caller that shows
    progress passes ``progress``, which gets the range of chunks and yields its numbers. Raises DataError if no word was
    masked.

    ``rows`` is filled with a table of the chunks, sorted by falling loss: ``row`` (the chunk's number, from 1),
    ``text`` (with its masks), ``label`` (the masked tokens, a list), ``prediction`` (the best token for each mask),
    ``score`` (mean probability of the predictions) and ``loss`` (mean cross-entropy of the masked tokens, in nats).
    """
    vocabulary = Vocabulary.of(model.tokenizer)
    cut = sentence_chunks if sentence_starts else join_chunks
    chunks = cut(model.tokenizer, texts, min(EVALUATION_LENGTH, model.bundle.truncation.max_length))
    loss = first = five = 0.0
    tokens = 0
    measured: list[tuple[Any, ...]] = []
    start = time.perf_counter()
    for row in progress(range(len(chunks))):
        for ids, labels in evaluation_batches(chunks, vocabulary, [row], 1):
            wanted = labels[labels != IGNORED]
            if not len(wanted):
                continue
            # A review may contain a [MASK] of its own, whose word nobody knows.
            logits = model.logits(ids[0])[labels[ids == vocabulary.mask_id] != IGNORED]
            at = logits[np.arange(len(wanted)), wanted][:, None]
            total = _log_sum_exp(logits)
            summed = float((total - at[:, 0]).sum())
            loss += summed
            if rows is not None:
                best, name = logits.argmax(axis=1), model.tokenizer.id_to_token
                score = float(np.exp(logits.max(axis=1) - total).mean())
                shown = model.tokenizer.decode([int(i) for i in ids[0]], skip_special_tokens=False)
                predicted = [name(int(i)) for i in best]
                measured.append(
                    (row + 1, shown, [name(int(i)) for i in wanted], predicted, score, summed / len(wanted))
                )
            better = (logits > at).sum(axis=1)
            first += int((better < 1).sum())
            five += int((better < 5).sum())
            tokens += len(wanted)
    seconds = time.perf_counter() - start
    if rows is not None:
        measured.sort(key=lambda row: (-row[-1], row[0]))
        names = ("row", "text", "label", "prediction", "score", "loss")
        rows.update({name: [row[at] for row in measured] for at, name in enumerate(names)})
    if not tokens:
        raise DataError("No word was masked, because the texts are too short: give more of them.")
    return {
        "chunks": len(chunks),
        "tokens": tokens,
        "perplexity": math.exp(loss / tokens),
        "log_loss": loss / tokens,
        "top1": first / tokens,
        "top5": five / tokens,
        "chunks_per_second": len(chunks) / seconds,
    }


def _log_sum_exp(logits: Any) -> Any:
    """*Shape:* ``(rows, classes)`` to ``(rows,)``, the sum in float64."""
    largest = logits.max(axis=1, keepdims=True)
    return largest[:, 0] + np.log(np.exp(logits - largest).sum(axis=1, dtype=np.float64))
