"""CARD: the parts of a model card that are particular to fill-mask."""

from __future__ import annotations

from ..card import Card, Metrics, table

_TITLES = {"validation": "validation perplexity", "sentence_starts": "on chunks that begin with a sentence"}


def _data(metrics: Metrics) -> list[str]:
    chunks, length = metrics["data"]["train_chunks"], metrics["hyperparameters"]["chunk_length"]
    return [f"They are joined and cut into {chunks} chunks of {length} tokens."]


def _before(metrics: Metrics) -> list[str]:
    measured = metrics["evaluation"]
    return [
        f"Measured on chunks of {measured['length']} tokens, of which {measured['mask_probability']:.0%} of the words "
        "are masked, once and with a fixed seed, each by `[MASK]`. Perplexity is the exponential of the mean "
        "cross-entropy over the masked tokens."
    ]


def _after(metrics: Metrics, read_once: str) -> list[str]:
    columns = [name for name in _TITLES if f"{name}_perplexity" in metrics["epochs"][0]]
    rows = [
        f"| {row['epoch']:g} | " + " | ".join(f"{row[f'{name}_perplexity']:.2f}" for name in columns) + " |"
        for row in metrics["epochs"]
    ]
    return [
        f"Validation chose step {metrics['best_step']}; {read_once}",
        table(["epoch", *(_TITLES[name] for name in columns)], rows),
    ]


CARD = Card(
    metric="perplexity",
    made="adapted by masked language modelling",
    rows=(
        ("perplexity", "perplexity", 1, ".2f"),
        ("top1", "top-1 (%)", 100, ".2f"),
        ("top5", "top-5 (%)", 100, ".2f"),
    ),
    columns=("perplexity", "top1", "top5"),
    fp32="The fp32 graph takes `input_ids` and `attention_mask`, any batch and length, and gives "
    "`logits (batch, length, vocabulary)`.",
    int8="The int8 graph is for the edge: its only input is `input_ids`, one text without padding, and it gives "
    "`logits (masks, vocabulary)`, for the `[MASK]` positions only.",
    others="On the same weights, `onnx/model_quantized.onnx` takes batches with an attention mask, for optimum and "
    "transformers.js.",
    example=("FillMask", "A great [MASK]!"),
    before=_before,
    data=_data,
    after=_after,
)
