"""edge-imdb score with a teacher, any classifier of transformers; --all-scores and --temperature."""

from __future__ import annotations

import csv
import doctest
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Shared, make_reviews, write_csv
from tiny_teachers import ARCHITECTURES, make_teacher

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from edge_imdb import Sentiment
from edge_imdb.data.metrics import softmax
from edge_imdb.data.text import clean
from edge_imdb.errors import EdgeImdbError, MissingDependencyError, ProviderError
from edge_imdb.runtime.options import RuntimeOptions
from edge_imdb.scoring import labels, local, on_ray, rows, score, teacher
from edge_imdb.scoring.teacher import Teacher, check_teacher
from edge_imdb.tasks.sentiment import rows as sentiment_rows
from edge_imdb.tasks.sentiment.rows import SentimentRows

LONG = "The film was great, " * 60


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def mpnet(shared: Shared) -> Path:
    return shared("teacher-mpnet", make_teacher)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Seventy texts of different lengths, among them a blank, one of markup alone, and one that is too long."""
    found = [text for text, _ in make_reviews(67, 5)]
    found[20:20] = ["", "<br />", LONG]
    return write_csv(tmp_path / "texts.csv", [(text, str(i)) for i, text in enumerate(found)], ("text", "id"))


@pytest.mark.parametrize("module", [local, on_ray, rows, sentiment_rows, teacher])
def test_examples_in_docstrings(module: Any) -> None:
    done = doctest.testmod(module)
    assert done.attempted and not done.failed


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_teacher_says_what_the_model_says_about_one_text(architecture: str, tmp_path: Path, texts: Path) -> None:
    """Batches, padding and sorting change nothing but the last bits."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = make_teacher(tmp_path / "teacher", architecture, ("bad", "so-so", "good"))
    score(texts, tmp_path / "out.jsonl", model=folder, all_scores=True, temperature=1.5, precision="fp32")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    different = set()
    for row in found:
        if row["error"]:
            assert not clean(row["text"]) and row["scores"] is None and row["label"] is None
            continue
        ids = tokenizer(clean(row["text"]), truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            logits = model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]).logits[0].double().numpy()
        expected = softmax(logits, 1.5)
        np.testing.assert_allclose(list(row["scores"].values()), expected, atol=2e-5)
        assert list(row["scores"]) == ["bad", "so-so", "good"]
        assert row["label"] == max(row["scores"], key=row["scores"].get) and row["score"] == max(row["scores"].values())
        different.add(round(row["score"], 6))
    assert sum(bool(row["error"]) for row in found) == 2 and len(different) > 50


def test_a_job_that_was_stopped_writes_the_same_bytes(mpnet: Path, texts: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": mpnet, "part_rows": 16, "all_scores": True}
    score(texts, tmp_path / "whole", **options)
    for at in (1, 3):

        def stop(record: dict[str, Any], at: int = at) -> None:
            if record["phase"] == "score" and record["parts"] > at:
                raise KeyboardInterrupt

        from edge_imdb.scoring import job

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(job, "_TICK", 0.0)
            with pytest.raises(KeyboardInterrupt):
                score(texts, tmp_path / "stopped", report=stop, **options)
    assert 1 < len(list((tmp_path / "stopped").glob("part-*"))) < 5
    summary = score(texts, tmp_path / "stopped", **options)
    assert summary.labelled < 70 and summary.errors == 2
    parts = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("part-*")}
    assert len(parts) == 5
    assert parts == {path.name: path.read_bytes() for path in (tmp_path / "stopped").glob("part-*")}


def test_another_teacher_or_temperature_is_another_job(mpnet: Path, texts: Path, tmp_path: Path) -> None:
    score(texts, tmp_path / "out", model=mpnet)
    with pytest.raises(EdgeImdbError, match=r"temperature was 1\.0, now 2\.0"):
        score(texts, tmp_path / "out", model=mpnet, temperature=2.0)
    other = shutil.copytree(mpnet, tmp_path / "other")
    (other / "tokenizer_config.json").write_text((other / "tokenizer_config.json").read_text() + "\n")
    with pytest.raises(EdgeImdbError, match="bundle was"):
        score(texts, tmp_path / "out", model=other)


def test_windows_on_ray_are_those_of_a_local_job(mpnet: Path) -> None:
    texts: list[str | None] = [text for text, _ in make_reviews(50)]
    whole = list(local.windows(texts, 20, 8))
    assert whole == list(on_ray.chunked(texts, 8, 20))
    # A run that goes on with the second part has the same windows.
    assert list(on_ray.chunked(texts[20:], 8, 20)) == whole[3:]


def options_of(folder: Path) -> labels.Options:
    return labels.Options("sentiment", SentimentRows(all_scores=True), RuntimeOptions(model=str(folder)))


def test_an_actor_labels_as_a_local_job_does(mpnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The actor gets the teacher's files through Ray, since its node doesn't have them."""
    import sys
    from types import SimpleNamespace

    options = options_of(mpnet)
    here = teacher.open_labeller(options)
    files = on_ray.model_files(options)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda reference: reference))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    there = on_ray._Actor(options_of(tmp_path / "gone"), here.identity(), [files])
    texts = [text for text, _ in make_reviews(20)]
    assert there.label([*texts, None]) == [tuple(outcome) for outcome in here.label_all([*texts, None])]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.jsonl"])
def test_all_scores_of_a_bundle_are_its_probabilities(texts: Path, tmp_path: Path, name: str) -> None:
    score(texts, tmp_path / name, all_scores=True)
    score(texts, tmp_path / "plain.jsonl")
    plain = [json.loads(line) for line in (tmp_path / "plain.jsonl").read_text().splitlines()]
    model = Sentiment(threads=1)
    found = read(tmp_path / name)
    assert len(found) == len(plain) == 70
    for row, other in zip(found, plain, strict=True):
        scores = [row["score_neg"], row["score_pos"]] if "score_neg" in row else row["scores"]
        scores = list(scores.values()) if isinstance(scores, dict) else scores
        if other["error"]:
            assert scores in (None, ["", ""]) and row["error"] == other["error"]
            continue
        assert [float(value) for value in scores] == model.probabilities(row["text"]).tolist()
        # The label and the score are, to the bit, those without the option.
        assert (row["label"], float(row["score"])) == (other["label"], other["score"])


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return list(parquet.read_table(path).to_pylist())
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(lines)) if path.suffix == ".csv" else [json.loads(line) for line in lines]


def test_columns_get_a_prefix_where_the_input_has_a_score_of_a_label(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "in.csv", [("A great film.", "0.1")], ("text", "score_pos"))
    score(path, tmp_path / "out.csv", all_scores=True)
    assert list(read(tmp_path / "out.csv")[0]) == [
        "text", "score_pos", "predicted_label", "predicted_score", "predicted_score_neg", "predicted_score_pos",
        "predicted_error",
    ]  # fmt: skip


def test_min_score_and_all_scores_go_together(mpnet: Path, texts: Path, tmp_path: Path) -> None:
    score(texts, tmp_path / "out.jsonl", model=mpnet, all_scores=True, min_score=1.0)
    rows = [row for row in read(tmp_path / "out.jsonl") if not row["error"]]
    assert {row["label"] for row in rows} == {"unsure"} and all(sum(row["scores"].values()) > 0.99 for row in rows)


# --- refusals


def edited(folder: Path, target: Path, **changes: Any) -> Path:
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["MPNetForMaskedLM"]}, r"is not a classifier \(MPNetForMaskedLM; .*train sentiment --base"),
        ({"architectures": None}, r"is not a classifier \(no architecture"),
        ({"id2label": {"0": "LABEL_0"}}, "has one output, so it is a regression and not a classifier"),
        ({"problem_type": "multi_label_classification"}, "is for multi label classification"),
        ({"id2label": {"0": "pos", "1": "pos"}}, "has two labels of the same name"),
        ({"model_type": "mine", "auto_map": {"AutoModel": "m.M"}}, "without code from its repository, which is never"),
        ({"model_type": "mine"}, "which transformers .* doesn't know: use a newer transformers"),
        ({"vocab_size": 5}, "The weights of .* can't be read"),
    ],
)
def test_a_folder_that_is_no_teacher_is_refused_in_words(
    mpnet: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(EdgeImdbError, match=words):
        Teacher(edited(mpnet, tmp_path / "bad", **changes))


def test_code_of_a_folder_is_never_run(mpnet: Path, tmp_path: Path) -> None:
    """Neither as a module that auto_map names nor as a pickle."""
    folder = edited(mpnet, tmp_path / "bad", model_type="mine", auto_map={"AutoConfig": "evil.C"})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n")
    with pytest.raises(EdgeImdbError):
        Teacher(folder)
    pickled = shutil.copytree(mpnet, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(EdgeImdbError, match=r"has no \.safetensors, only pytorch_model.bin.*save_pretrained"):
        Teacher(pickled)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_missing_or_damaged_and_a_tokenizer_that_does_not_fit_are_refused(
    mpnet: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    headless = shutil.copytree(mpnet, tmp_path / "headless")
    weights = {
        name: value for name, value in load_file(headless / "model.safetensors").items() if "classif" not in name
    }
    save_file(weights, headless / "model.safetensors", {"format": "pt"})
    cut = shutil.copytree(mpnet, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    bare = shutil.copytree(mpnet, tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (bare / name).unlink()
    large = shutil.copytree(mpnet, tmp_path / "large")
    record = json.loads((large / "tokenizer.json").read_text())
    record["model"]["vocab"]["further"] = 5000
    (large / "tokenizer.json").write_text(json.dumps(record))
    for folder, words in (
        (headless, r"lacks weights \(classifier.*answers would be random"),
        (cut, "The weights of .* can't be read"),
        (bare, "The tokenizer of .* can't be read"),
        (large, "has the id 5000, but the model has only"),
        (tmp_path / "missing", "There is no folder"),
    ):
        with pytest.raises(EdgeImdbError, match=words):
            Teacher(folder)


def test_options_of_bundles_are_refused_for_a_teacher_and_the_other_way_round(
    mpnet: Path, texts: Path, tmp_path: Path
) -> None:
    for more, words in (
        ({"model": mpnet, "exact": True}, "--exact is for bundles"),
        ({"model": mpnet, "explain": 2}, "--explain is for bundles"),
        ({"model": mpnet, "precision": "int8"}, "--precision int8 is for bundles"),
        ({"model": mpnet, "task": "fill-mask"}, "is a classifier: leave --task out"),
        ({"temperature": 2.0}, "--temperature is for a teacher"),
        ({"temperature": 0.0}, "it must be over 0"),
        ({"all_scores": True, "explain": 2}, "--all-scores and --explain don't go together"),
    ):
        with pytest.raises(EdgeImdbError, match=words):
            score(texts, tmp_path / "out", **more)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(ProviderError, match="PyTorch finds no CUDA GPU"):
            Teacher(mpnet, provider="cuda")
    with pytest.raises(ProviderError, match="has no provider 'tensorrt'"):
        Teacher(mpnet, provider="tensorrt")


def test_without_pytorch_the_error_names_the_extra(mpnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"needs torch.*edge-imdb\[teacher\]"):
        Teacher(mpnet)
    assert check_teacher(mpnet)["model_type"] == "mpnet"


def test_the_extra_teacher_installs_all_that_a_teacher_imports() -> None:
    import tomllib

    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert {line.split(">")[0] for line in extras["teacher"]} == {"edge-imdb[score]", "torch", "transformers"}


def test_a_teacher_on_the_hub_is_fetched_without_its_code_and_other_formats(
    mpnet: Path, texts: Path, tmp_path: Path
) -> None:
    from conftest import run_command
    from fake_hub import environment_of, serving

    folder = Path(shutil.copytree(mpnet, tmp_path / "hub" / "models" / "me" / "teacher"))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    arguments = ("score", texts, "--model", "me/teacher", "--output", tmp_path / "out.jsonl")
    with serving(tmp_path / "hub") as server:
        environment = environment_of(server, tmp_path / "home")
        done = run_command(*arguments, env=environment)
        assert done.returncode == 3, done.stderr
    score(texts, tmp_path / "local.jsonl", model=mpnet)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()
    names = {path.name for path in (tmp_path / "home").rglob("*") if path.is_symlink()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"pytorch_model.bin", "modeling.py"}
    assert not any(path.parent.name == "onnx" for path in (tmp_path / "home").rglob("config.json"))
