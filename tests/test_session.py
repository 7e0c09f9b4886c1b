"""Execution providers and threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import make_reviews

from edge_imdb import Sentiment, session
from edge_imdb.errors import ProviderError, UsageError


def test_auto_falls_back_to_the_cpu_in_so_many_words(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A runtime that was built with CUDA on a machine that has none: ONNX Runtime then makes a session without it.
    monkeypatch.setattr(session, "available_providers", lambda: ["cuda", "cpu"])
    model = Sentiment(tiny_bundle)
    assert model.provider == "CPUExecutionProvider"
    assert "running on the CPU" in capsys.readouterr().err
    assert model("the film was great")[0]["label"] in ("neg", "pos")
    with pytest.raises(ProviderError, match="--provider cpu"):
        Sentiment(tiny_bundle, provider="cuda")


@pytest.mark.parametrize(("provider", "kind"), [("abacus", UsageError), ("tensorrt", ProviderError)])
def test_a_provider_that_is_not_there_is_named(tiny_bundle: Path, provider: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=provider):
        Sentiment(tiny_bundle, provider=provider)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_under_one_are_refused(tiny_bundle: Path, threads: int) -> None:
    with pytest.raises(UsageError, match="--threads"):
        Sentiment(tiny_bundle, threads=threads)


def test_threads_of_the_caller_share_one_object(tiny_bundle: Path) -> None:
    model = Sentiment(tiny_bundle, threads=1)
    texts = [text for text, _ in make_reviews(200, seed=4)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: model(text)[0], texts)) == model(texts)


@pytest.mark.parametrize("top_k", [0, -1, 1.5])
def test_top_k_under_one_is_refused(tiny_bundle: Path, top_k: int) -> None:
    with pytest.raises(UsageError, match="top_k"):
        Sentiment(tiny_bundle)("fine", top_k=top_k)
