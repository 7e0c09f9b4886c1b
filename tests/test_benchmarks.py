"""The benchmarks run as commands, name what they leave out, and compute correct ratios."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import make_reviews, write_csv

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run_benchmark(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_a_ratio_is_the_peers_time_over_ours_and_its_interval_is_paired() -> None:
    from latency import OURS, compare

    ours = np.random.default_rng(0).lognormal(1, 1, 400)
    figures = compare({OURS: ours.tolist(), "twice": (2 * ours).tolist(), "other": ours[::-1].tolist()}, np.mean)
    assert figures["twice"]["ratio"] == pytest.approx(2)
    # Both sides use the same reviews, so if one is always twice the other, the interval has no width.
    assert (figures["twice"]["ratio_low"], figures["twice"]["ratio_high"]) == pytest.approx((2, 2))
    assert figures["other"]["ratio_low"] < 1 < figures["other"]["ratio_high"]
    assert figures[OURS]["p50"] <= figures[OURS]["p95"] <= figures[OURS]["p99"]


def test_the_roofline_counts_the_products_of_the_layers_that_are_computed_whole() -> None:
    from latency import macs

    config = {"dim": 10, "hidden_dim": 40, "n_layers": 3}
    # Queries, keys, values, output: 4 x 10 x 10; feed-forward: 2 x 10 x 40; scores and sums: 2 x 7 x 7 x 10.
    assert macs(config, 7) == 2 * (7 * (400 + 800) + 980)


def test_contenders_agree_on_a_label(
    tiny_run: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every API leads to the same model; those that aren't installed are left out."""
    import torch
    from contenders import CONTENDERS, Setting, open_contender

    # Contenders set it for the whole process, and training with a different number of threads gives different bits.
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    rows = make_reviews(60, seed=3)
    texts, labels = [text for text, _ in rows], [int(label == "pos") for _, label in rows]
    setting = Setting(tiny_bundle, tiny_run, tmp_path, texts, labels)
    opened = {}
    for name in CONTENDERS:
        try:
            opened[name] = open_contender(name, setting, 1)
        except ImportError:
            continue
    assert {"edge-imdb int8", "optimum, fp32", "scikit-learn, TF-IDF of trigrams"} <= set(opened)
    chosen = make_reviews(24, seed=4)
    for name, contender in opened.items():
        right = sum(contender.read(text) == int(label == "pos") for text, label in chosen)
        assert right >= 20, name
        assert contender.mib > 0


def test_latency_names_what_is_missing_and_writes_its_figures(tmp_path: Path) -> None:
    arguments = ["--rounds", 1, "--threads", 1, "--only", "optimum,CTranslate2", "--json", "l.json"]
    result = run_benchmark("latency.py", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "| edge-imdb int8 |" in result.stdout and "| roofline |" in result.stdout
    if importlib.util.find_spec("ctranslate2") is None:
        assert "left out: CTranslate2, int8, needs ctranslate2" in result.stdout
    report = json.loads((tmp_path / "l.json").read_text())
    lengths = report["threads"]["1"]["lengths"]
    assert set(lengths) == {"8", "32", "128", "256", "512"}
    assert lengths["512"]["edge-imdb int8"]["p50"] > lengths["32"]["edge-imdb int8"]["p50"] > 0
    assert lengths["8"]["edge-imdb int8"]["ratio"] == 1 and report["mib"]["edge-imdb int8"] < 24
    assert report["machine"]["versions"]["onnxruntime"]
    assert (tmp_path / "latency.png").stat().st_size > 10_000


def test_throughput_counts_every_review(tmp_path: Path) -> None:
    write_csv(tmp_path / "reviews.csv", make_reviews(40))
    arguments = ["--data", "reviews.csv", "--peer-reviews", 0, "--threads", "1,2", "--json", "t.json"]
    result = run_benchmark("throughput.py", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert [(row["name"], row["threads"]) for row in rows] == [
        ("edge-imdb", 1),
        ("edge-imdb", 2),
        ("edge-imdb --exact", 1),
        ("edge-imdb --exact", 2),
    ]
    assert all(row["reviews"] == 40 and row["reviews_per_second"] > 0 and row["accuracy"] > 0.9 for row in rows)


def test_parts_measures_every_contender_on_the_validation_reviews_of_a_run(
    tiny_run: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    older = ["--previous", tiny_bundle, "--previous", f"again={tiny_bundle}"]
    arguments = ["--run", tiny_run, *older, "--reviews", 4, "--threads", 1, "--json", "p.json"]
    result = run_benchmark("parts.py", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "p.json").read_text())
    quality, times = report["quality"], report["mean_ms"]["1"]
    assert list(quality) == list(times) and min(times.values()) > 0
    held_out = json.loads((tiny_run / "metrics.json").read_text())["data"]["validation"]
    assert {figures["reviews"] for groups in quality.values() for figures in groups.values()} == {held_out}
    # The older bundle is the run's own, so it knows these reviews well.
    accuracies = [figures["accuracy"] for figures in quality["previous bundle"].values()]
    assert min(accuracies) > 0.9
    again, before = (next(iter(quality[f"{name}, --exact"].values())) for name in ("again", "previous bundle"))
    assert again | {"reviews_per_second": 0} == before | {"reviews_per_second": 0}
    assert f"| as it runs | {100 * next(iter(quality['as it runs'].values()))['accuracy']:.2f} %" in result.stdout


def test_parts_measures_fill_mask_on_chunks_that_begin_anywhere_and_at_a_sentence(
    fill_run: Path, fill_bundle: Path, tmp_path: Path
) -> None:
    arguments = ["--task", "fill-mask", "--run", fill_run, "--previous", fill_bundle, "--json", "p.json"]
    result = run_benchmark("parts.py", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    quality = json.loads((tmp_path / "p.json").read_text())["quality"]
    assert list(quality) == ["previous bundle", "embedded"]
    # At export the same bundle was measured on the same chunks.
    exported = json.loads((fill_bundle / "edge.json").read_text())["metrics"]["validation_int8"]
    anywhere, at_a_sentence = quality["previous bundle"].values()
    assert anywhere["perplexity"] == exported["perplexity"] and anywhere["tokens"] == exported["tokens"]
    assert at_a_sentence["tokens"] != anywhere["tokens"] and 1 < at_a_sentence["perplexity"] < 1000
    assert f"| previous bundle | {anywhere['perplexity']:.2f} (" in result.stdout


def test_teachers_label_texts_for_scored_and_are_measured_on_validation(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from edge_imdb.data.scored import load_scored

    data, more = write_csv(tmp_path / "r.csv", make_reviews(480)), make_reviews(80, 5)
    unlabelled = write_csv(tmp_path / "u.csv", more)
    arguments = ["--data", data, "--unlabelled", unlabelled, "--bundle", tiny_bundle, "--output", "linear.parquet"]
    result = run_benchmark("teachers.py", *arguments, "--json", "t.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    quality = json.loads((tmp_path / "t.json").read_text())["quality"]
    assert list(quality) == ["linear", "bundle", "mean"] and min(q["accuracy"] for q in quality.values()) > 0.9
    assert f"| mean of both | {100 * quality['mean']['accuracy']:.2f} %" in result.stdout
    scored = load_scored([str(tmp_path / "linear.parquet")], ["neg", "pos"], "text", set())
    assert scored.texts == [text for text, _ in more]
    right = scored.probabilities.argmax(1) == [label == "pos" for _, label in more]
    assert right.mean() > 0.9


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("parts.py", "--run", "nothing", "--previous", "older"), "There is no finished run in nothing"),
        (("throughput.py", "--data", "nothing.csv"), "nothing.csv"),
        (("throughput.py", "--data", "empty.csv"), "empty.csv"),
        # What edge-imdb itself has said on standard error isn't said again.
        (("quality.py", "--data", "nothing.csv", "--only", "sentiment", "--json", "q.json"), "nothing.csv"),
    ],
)
def test_a_benchmark_that_cannot_go_on_says_why_in_a_sentence(
    command: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.csv").write_text("text,label\n", encoding="utf-8")
    result = run_benchmark(*command, cwd=tmp_path)
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.returncode == 1 and len(lines) == 1 and said in lines[0], result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "q.json").exists()


def test_cold_start_times_whole_processes(tmp_path: Path) -> None:
    result = run_benchmark("cold_start.py", "--rounds", 1, "--dim", 48, "--json", "c.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    contenders = json.loads((tmp_path / "c.json").read_text())["contenders"]
    ours = contenders["edge-imdb predict"]
    assert 0 < ours["seconds"] < contenders["transformers pipeline, 6 x 48"]["seconds"]
    assert 20 < ours["peak_mib"] < contenders["transformers pipeline, 6 x 48"]["peak_mib"]
