"""The command line as a person meets it: what it prints, and what it says when the input is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import make_reviews, run_command, write_csv

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def refused(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One sentence on standard error, the right exit code, no traceback, nothing on standard output."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr, result.stderr
    message = result.stderr.strip().splitlines()
    assert message[-1].startswith("Error: ") and len([line for line in message if line.startswith("Error")]) == 1


# --- predict


def test_embedded_bundle_likes_a_great_film(command: Command) -> None:
    result = command("predict", "great film")
    label, score = result.stdout.split()
    assert label == "pos" and float(score) > 0.9


def test_embedded_bundle_reads_to_the_end_of_a_sentence(command: Command) -> None:
    result = command("predict", "I wanted to like this film. I could not.", "--json")
    record = json.loads(result.stdout)
    assert sorted(record) == ["label", "row", "score", "text"] and record["label"] == "neg"


@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl", "parquet"])
def test_predict_reads_files_in_order(command: Command, tmp_path: Path, suffix: str) -> None:
    texts = [text for text, _ in make_reviews(6, seed=2)] + ['a "quoted", comma film', "喜欢这部电影 🎬"]
    path = tmp_path / f"reviews.{suffix}"
    if suffix == "txt":
        path.write_text("\n".join(texts), encoding="utf-8")
    elif suffix == "csv":
        write_csv(path, [(text, "x") for text in texts], header=("review", "other"))
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps({"review": text}) + "\n" for text in texts))
    else:
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"review": texts}), path)
    result = command("predict", "--file", path, "--column", "review", "--json")
    assert result.returncode == 0, result.stderr
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == texts


def test_skip_blank_passes_over_blank_lines(command: Command, tmp_path: Path) -> None:
    (tmp_path / "reviews.txt").write_text("great\n\n \nawful\n")
    result = command("predict", "--file", "reviews.txt", "--skip-blank", "--json")
    labels = [(record["row"], record["label"]) for record in map(json.loads, result.stdout.splitlines())]
    assert labels == [(1, "pos"), (2, None), (3, None), (4, "neg")]


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        "good film " * 100_000,
        "nul\x01byte",
        "🎬" * 50,
        "очень хороший фильм",
        "\u202e\u200b film",
        "<br/>ok",
    ],
)
def test_odd_texts_get_a_label(command: Command, tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.jsonl").write_text(json.dumps({"text": text.replace("\x01", "\x00")}))
    record = json.loads(command("predict", "--file", "odd.jsonl", "--json").stdout)
    assert record["label"] in ("neg", "pos") and 0.5 <= record["score"] <= 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["predict"], 2, ["Give a text"]),
        (["predict", ""], 2, ["The text is blank"]),
        (["predict", "fine", "  "], 2, ["text 2 is blank"]),
        (["predict", "\x07<br />"], 2, ["The text is blank"]),
        (["predict", "one", "--file", "x.txt"], 2, ["not both"]),
        (["predict", "one", "-"], 2, ["standard input"]),
        (["predict", "one", "--threads", "0"], 2, ["--threads"]),
        (["predict", "one", "--provider", "abacus"], 2, ["abacus", "auto, cpu"]),
        (["predict", "one", "--provider", "qnn"], 1, ["qnn", "use auto"]),
        (["predict", "one", "--precision", "fp16"], 2, ["--precision"]),
        (["predict", "one", "--precision", "fp32"], 1, ["no fp32 graph"]),
        (["predict", "one", "--model", "missing"], 1, ["no bundle in missing", "edge-imdb export"]),
        (["predict", "--file", "missing.txt"], 1, ["no file missing.txt"]),
        (["predict", "--file", "."], 1, ["is a folder"]),
        (["predict", "--file", "empty.txt"], 1, ["is empty"]),
        (["predict", "--file", "empty.csv"], 1, ["is empty"]),
        (["predict", "--file", "latin.txt"], 1, ["not UTF-8", "0xe9"]),
        (["predict", "--file", "latin.csv"], 1, ["not UTF-8"]),
        (["predict", "--file", "good.csv", "--column", "review"], 1, ["no column 'review'", "'text', 'label'"]),
        (["predict", "--file", "ragged.csv"], 1, ["line 2", "number of fields"]),
        (["predict", "--file", "reviews.xlsx"], 1, ["edge-imdb can't read (.xlsx)", ".csv, .tsv"]),
        (["predict", "--file", "semicolon.csv"], 1, ["seems to be ';'", "--delimiter"]),
        (["predict", "--file", "number.jsonl"], 1, ["5", "a text is needed"]),
        (["predict", "--file", "broken.parquet"], 1, ["not a readable Parquet"]),
        (["evaluate", "--data", "missing.csv"], 1, ["no file missing.csv"]),
        (["evaluate", "--data", "./missing"], 1, ["no file or folder ./missing"]),
        (["evaluate", "--data", "somebody/missing"], 1, ["Hugging Face Hub", "--data"]),
        (["evaluate", "--data", "labels.csv"], 1, ["label 'mixed'", "'neg', 'pos'"]),
        (["evaluate", "--data", "good.csv", "--label-column", "stars"], 1, ["no column 'stars'"]),
        (["evaluate", "--data", "blank.txt"], 1, ["has an unknown extension"]),
        (["export", "--quantize", "--from", "nowhere"], 1, ["no finished run", "edge-imdb train"]),
        (["export", "--no-fp32"], 2, ["--quantize"]),
        (["export", "summary"], 2, ["summary"]),
        (["train", "--base", "x", "sentiment"], 2, ["--base after the task"]),
        (["train", "sentiment", "--epochs", "0"], 2, ["--epochs"]),
        (["train", "sentiment", "--epochs", "many"], 2, ["--epochs"]),
        (["train", "sentiment", "--country", "XX"], 2, ["--country", "USA"]),
        (["train", "sentiment", "--resume", "--overwrite"], 2, ["--resume"]),
        (["train", "sentiment", "--resume"], 1, ["no unfinished run"]),
        (["frobnicate"], 2, ["frobnicate"]),
    ],
)
def test_wrong_input_ends_in_one_sentence(
    command: Command, tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    files = {
        "empty.txt": b"",
        "empty.csv": b"",
        "latin.txt": b"caf\xe9\n",
        "latin.csv": b"text\ncaf\xe9\n",
        "good.csv": b"text,label\ngreat,pos\n",
        "ragged.csv": b"text,label\ngreat, really,pos\n",
        "labels.csv": b"text,label\ngreat,pos\nso so,mixed\n",
        "blank.txt": b"great\n\nawful\n",
        "number.jsonl": b'{"text": 5}\n',
        "broken.parquet": b"PAR1 no PAR1",
        "reviews.xlsx": b"PK",
        "semicolon.csv": b"text;label\ngreat;pos\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    before = sorted(path.name for path in tmp_path.iterdir())
    refused(command(*arguments), code, *words)
    left = {path.name for path in tmp_path.iterdir()} - set(before)
    assert left <= {"runs", "models"} and not any(any((tmp_path / name).iterdir()) for name in left)


def test_empty_standard_input_is_refused(command: Command) -> None:
    refused(command("predict", "-", input=""), 1, "Standard input is empty")


def test_standard_input_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "edge_imdb", "predict", "-"], input=b"caf\xe9\n", capture_output=True, timeout=60
    )
    assert result.returncode == 1 and b"not UTF-8" in result.stderr and b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("reviews.csv", 'text\n"great film"\n"great film"\n"open quote\n', "not valid CSV"),
        ("reviews.txt", "great film\ngreat film\n\n", "reviews.txt line 3 is blank"),
        ("reviews.jsonl", '{"text": "great film"}\n{"text": "great film"}\n{"text": \n', "line 3 is not a JSON object"),
    ],
)
def test_what_came_before_a_wrong_last_line_is_kept(
    command: Command, tmp_path: Path, name: str, content: str, words: str
) -> None:
    (tmp_path / name).write_text(content)
    result = command("predict", "--file", name)
    assert result.returncode == 1 and result.stdout.count("pos\t") == 2
    assert words in result.stderr and result.stderr.count("\n") == 1


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "reviews.txt").write_text("great film\n" * 3000)
    line = f"{sys.executable} -m edge_imdb predict --file reviews.txt | head -1"
    result = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stdout.count("\n") == 1 and result.stderr == ""


def test_ctrl_c_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "edge_imdb", "predict", "-"]
    with subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts background jobs, this test among them perhaps, with SIGINT ignored, and children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b"great film\n")
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.wait(timeout=10) == 130
        assert time.monotonic() - start < 2
        assert b"Traceback" not in process.stderr.read()


# --- evaluate and info


def test_evaluate_prints_every_figure(command: Command, tmp_path: Path, tiny_bundle: Path) -> None:
    write_csv(tmp_path / "test.csv", make_reviews(30, seed=9))
    result = command("evaluate", "--data", "test.csv", "--model", tiny_bundle)
    for word in ("accuracy", "F1 (macro)", "log loss", "calibration error", "reviews per second"):
        assert word in result.stdout
    record = json.loads(command("evaluate", "--data", "test.csv", "--model", tiny_bundle, "--json").stdout)
    assert record["reviews"] == 30 and record["accuracy"] > 0.8 and record["precision"] == "int8"


def test_evaluate_takes_numbers_for_labels(command: Command, tmp_path: Path, tiny_bundle: Path) -> None:
    rows = make_reviews(30, seed=9)
    write_csv(tmp_path / "words.csv", rows)
    numbers = "".join(json.dumps({"text": t, "label": ("neg", "pos").index(label)}) + "\n" for t, label in rows)
    (tmp_path / "numbers.jsonl").write_text(numbers)
    figures = [
        json.loads(command("evaluate", "--data", name, "--model", tiny_bundle, "--json").stdout)["log_loss"]
        for name in ("words.csv", "numbers.jsonl")
    ]
    assert figures[0] == figures[1]


def test_info_says_which_bundle_and_why(command: Command, tmp_path: Path, tiny_bundle: Path) -> None:
    assert "(embedded)" in command("info").stdout
    shutil.copytree(tiny_bundle, tmp_path / "models" / "sentiment")
    assert "models/sentiment (./models)" in command("info").stdout
    result = command("info", "--json", env={"EDGE_IMDB_MODELS": str(tiny_bundle.parent)})
    entry = json.loads(result.stdout)["bundles"]["sentiment"]
    assert entry["why"] == "$EDGE_IMDB_MODELS" and entry["graphs"] == ["batch", "explain", "fp32", "int8"]
    assert entry["metrics"]["validation_int8"]["accuracy"] > 0.5


def test_missing_bundle_folder_of_the_environment_is_an_error(command: Command) -> None:
    refused(command("predict", "great", env={"EDGE_IMDB_MODELS": "nowhere"}), 1, "no bundle in nowhere")


# --- what is imported


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, edge_imdb; "
        "print([m for m in ('torch','transformers','datasets','optimum','onnxruntime','numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]"


def test_predict_loads_no_training_library(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom edge_imdb import Sentiment\nSentiment()('great film')\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'optimum', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize(
    ("absent", "arguments", "words"),
    [
        ("onnxruntime", ["predict", "great"], "pip install 'edge-imdb[cpu]' (or 'edge-imdb[gpu]', for CUDA)"),
        # Not the extra that one has: [export] leaves the choice of the runtime to the user.
        ("onnxruntime", ["export"], "pip install 'edge-imdb[cpu]' (or 'edge-imdb[gpu]', for CUDA)"),
        ("torch", ["train", "sentiment"], "edge-imdb[train]"),
        ("optimum", ["export"], "edge-imdb[export]"),
        ("datasets", ["evaluate"], "pip install datasets"),
        ("pyarrow", ["predict", "--file", "x.parquet"], "pip install pyarrow"),
    ],
)
def test_a_missing_extra_is_named(tmp_path: Path, absent: str, arguments: list[str], words: str) -> None:
    # A finder that hides one package, as in an environment without its extra.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {absent!r}:\n"
        f"            raise ModuleNotFoundError('No module named ' + name, name={absent!r})\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    (tmp_path / "x.parquet").touch()
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    refused(run_command(*arguments, cwd=tmp_path, env={"PYTHONPATH": path}), 1, words)
