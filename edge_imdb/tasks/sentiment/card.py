"""CARD: the parts of a model card that are particular to sentiment."""

from __future__ import annotations

from ..card import Card, Metrics, table


def _about(metrics: Metrics) -> str:
    return f" Its labels: {', '.join(metrics['labels'])}."


def _data(metrics: Metrics) -> list[str]:
    size = metrics["truncation"]
    lines = [
        f"A review of over {size['max_length']} tokens keeps its head ({size['head_ratio']:.0%} of them) and its tail."
    ]
    if kept := metrics.get("token_dropping"):
        trained = metrics.get("token_dropping_trained", kept)
        said = "The model was trained to drop tokens"
        if trained != kept:
            how = "with another schedule of token dropping" if trained else "with all tokens"
            said = f"The model was trained {how}, as the next table measures it; its int8 graph drops tokens"
        shares = ", ".join(f"{share:.0%}" for share in kept)
        lines.append(f"{said}: after the layers it keeps {shares} of them, those that receive most attention.")
    return lines


def _after(metrics: Metrics, read_once: str) -> list[str]:
    parts = [
        f"Validation chose step {metrics['best_step']} and the temperature, {metrics['temperature']:.4f}; "
        f"{read_once} Divide the logits by the temperature before the softmax for calibrated scores."
    ]
    if groups := metrics.get("validation_by_source"):
        rows = [
            f"| {name} | {group['accuracy']:.4f} | {group['log_loss']:.4f} | {group['calibration_error']:.4f} |"
            for name, group in groups.items()
        ]
        parts.append(table(["validation of", "accuracy", "log loss", "calibration error"], rows))
    return parts


CARD = Card(
    metric="accuracy",
    made="fine-tuned",
    rows=(
        ("accuracy", "accuracy", 1, ".4f"),
        ("f1", "F1 (macro)", 1, ".4f"),
        ("log_loss", "log loss (nats)", 1, ".4f"),
        ("calibration_error", "calibration error", 1, ".4f"),
        ("calibration_error_uncalibrated", "calibration error before temperature scaling", 1, ".4f"),
    ),
    columns=("accuracy", "log_loss"),
    fp32="The fp32 graph takes `input_ids` and `attention_mask`, any batch and length, and gives "
    "`logits (batch, labels)`.",
    int8="The int8 graph is for the edge: its only input is `input_ids`, one text without padding, and it gives "
    "`logits (1, labels)`.",
    others="On the same weights, `onnx/model_quantized.onnx` takes batches with an attention mask, for optimum and "
    "transformers.js, and `onnx/model_explain.pb` also says which words decided.",
    example=("Sentiment", "great film"),
    about=_about,
    data=_data,
    after=_after,
)
