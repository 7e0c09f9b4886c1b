"""write_bundle_card: the model card of a bundle, the run's with what export measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..bundle import GRAPHS


def write_bundle_card(source: Path, folder: Path, figures: dict[str, Any], recipe: dict[str, Any] | None) -> None:
    """Write ``folder``'s README.md from the run's card in ``source``: its curves left out, its graphs added."""
    kept = [line for line in source.read_text(encoding="utf-8").splitlines() if not line.startswith("![")]
    card = "\n".join(kept).replace("\n- edge-imdb\n", "\n- edge-imdb\n- onnx\n")
    rows = "\n".join(
        f"| {precision} | `{path}` | {(folder / path).stat().st_size / 2**20:.1f} "
        f"| {figures[f'validation_{precision}']['accuracy']:.4f} "
        f"| {figures[f'validation_{precision}']['log_loss']:.4f} |"
        for precision, path in GRAPHS.items()
        if (folder / path).exists()
    )
    quantization = f"\nQuantization: `{json.dumps(recipe)}`.\n" if recipe else ""
    folder.joinpath("README.md").write_text(
        f"""{card.rstrip()}

## ONNX graphs

Inputs `input_ids` and `attention_mask`, output `logits`, batch and length dynamic. Measured by `edge-imdb export` on
the validation reviews; the fp32 graph's logits differ from PyTorch's by {figures["fp32_max_difference"]:.1e} at most.

| | file | MiB | accuracy | log loss (nats) |
|---|---|---|---|---|
{rows}
{quantization}
```python
from edge_imdb import Sentiment

Sentiment("path/of/this/folder")("great film")
```
""",
        encoding="utf-8",
    )
