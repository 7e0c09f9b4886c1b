"""write_bundle_card: the model card of a bundle, the run's with what export measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..bundle import GRAPHS, open_bundle

# For each task: the figures of a graph's row, how to call it, and what its output is.
_COLUMNS = {
    "sentiment": ("accuracy", "log_loss"),
    "fill-mask": ("perplexity", "top1", "top5"),
}
_CALLS = {
    "sentiment": ("Sentiment", "great film"),
    "fill-mask": ("FillMask", "This is a great [MASK]!"),
}
_OUTPUTS = {
    "sentiment": "output `logits (batch, labels)`. The int8 graph is for the edge: its one input is `input_ids`, texts "
    "of one length without padding",
    "fill-mask": "output `logits (batch, length, vocabulary)`. The int8 graph is for the edge: its one input is "
    "`input_ids`, texts of one length without padding, and its output `logits (masks, vocabulary)`, for the `[MASK]` "
    "positions alone",
}


def write_bundle_card(
    source: Path, folder: Path, task: str, figures: dict[str, Any], recipe: dict[str, Any] | None
) -> None:
    """Write ``folder``'s README.md from the run's card in ``source``: its curves left out, its graphs added."""
    kept = [line for line in source.read_text(encoding="utf-8").splitlines() if not line.startswith("![")]
    card = "\n".join(kept).replace("\n- edge-imdb\n", "\n- edge-imdb\n- onnx\n")
    columns = _COLUMNS[task]
    bundle = open_bundle(folder, task)
    rows = "\n".join(
        f"| {precision} | `{path}` | {bundle.size(precision) / 2**20:.1f} | "
        + " | ".join(f"{figures[f'validation_{precision}'][name]:.4f}" for name in columns)
        + " |"
        for precision, path in GRAPHS.items()
        if (folder / path).exists()
    )
    quantization = f"\nQuantization: `{json.dumps(recipe)}`.\n" if recipe else ""
    name, example = _CALLS[task]
    folder.joinpath("README.md").write_text(
        f"""{card.rstrip()}

## ONNX graphs

Inputs `input_ids` and `attention_mask`, batch and length dynamic; {_OUTPUTS[task]}. It is
written for ONNX Runtime's CPU provider, and fastest with graph optimisations off. Measured by `edge-imdb export` on the
validation reviews; the fp32 graph's logits differ from PyTorch's by {figures["fp32_max_difference"]:.1e} at most.

| | file | MiB | {" | ".join(column.replace("_", " ") for column in columns)} |
|---|---|---|{"---|" * len(columns)}
{rows}
{quantization}
```python
from edge_imdb import {name}

{name}("path/of/this/folder")("{example}")
```
""",
        encoding="utf-8",
    )
