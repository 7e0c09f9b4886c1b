"""Model cards: what they say of a run and of a bundle, and what they must not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import fill_options, tiny_options

pytest.importorskip("huggingface_hub", reason="the extra train is not installed")

from edge_imdb.tasks.card import render_card


def metrics_of(run: Path, **changes: Any) -> dict[str, Any]:
    return {**json.loads((run / "metrics.json").read_text()), **changes}


def front_matter(card: str) -> str:
    return card.split("---\n")[1]


@pytest.mark.parametrize("run", ["tiny_run", "fill_run"])
def test_a_local_base_and_a_local_data_set_are_no_links(run: str, request: pytest.FixtureRequest) -> None:
    """base_model and datasets are links on the Hub, where a local folder's name leads nowhere."""
    matter = front_matter((request.getfixturevalue(run) / "README.md").read_text())
    assert "base_model" not in matter and "datasets" not in matter


def test_names_of_the_hub_are_links(tiny_run: Path) -> None:
    hub = {"base": "distilbert/distilbert-base-uncased", "data": "stanfordnlp/imdb"}
    card = render_card(metrics_of(tiny_run, hub=hub))
    assert "base_model: distilbert/distilbert-base-uncased\ndatasets:\n- stanfordnlp/imdb\n" in front_matter(card)
    assert "# sentiment, from distilbert/distilbert-base-uncased on stanfordnlp/imdb" in card


@pytest.mark.parametrize("run", ["tiny_run", "fill_run"])
def test_a_run_without_a_test_split_says_so(run: str, request: pytest.FixtureRequest) -> None:
    metrics = metrics_of(request.getfixturevalue(run))
    assert "test was read once" in render_card(metrics)
    del metrics["test"]
    metrics["data"]["test"] = 0
    card = render_card(metrics)
    assert "there was no test split" in card and "read once" not in card and "| test |" not in card


@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
def test_a_run_that_skips_test_says_so_and_has_the_same_weights(
    task: str, tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    from edge_imdb.train.fill_mask import train_fill_mask
    from edge_imdb.train.sentiment import train_sentiment

    def trained(output: Path, **more: object) -> Path:
        if task == "sentiment":
            return train_sentiment(tiny_options(tiny_bert, reviews_csv, output, epochs=1.0, **more))  # type: ignore[arg-type]
        return train_fill_mask(fill_options(tiny_bert, reviews_csv, output, epochs=1.0, **more))  # type: ignore[arg-type]

    whole, skipped = trained(tmp_path / "whole"), trained(tmp_path / "skipped", skip_test=True)
    assert (whole / "model.safetensors").read_bytes() == (skipped / "model.safetensors").read_bytes()
    metrics = metrics_of(skipped)
    # Its reviews are still kept out of training.
    assert "test" not in metrics and metrics["data"] == metrics_of(whole)["data"] and metrics["data"]["test"] > 0
    card = (skipped / "README.md").read_text()
    assert "test was not measured (`--skip-test`)" in card and "| test |" not in card


def test_a_card_describes_only_the_graphs_that_the_bundle_holds(tiny_run: Path, tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "edge.json").read_text())
    exported = {"figures": manifest["metrics"], "recipe": manifest["quantization"]}
    graphs = {"fp32": ("onnx/model.onnx", 1.0), "int8": ("onnx/model_edge.pb", 0.3)}
    both = render_card(metrics_of(tiny_run), {**exported, "graphs": graphs})
    assert "The fp32 graph takes" in both and "| fp32 | `onnx/model.onnx` | 1.0 |" in both
    del graphs["fp32"]
    alone = render_card(metrics_of(tiny_run), {**exported, "graphs": graphs})
    assert "The fp32 graph takes" not in alone and "| fp32 | `onnx" not in alone and "| int8 |" in alone
