"""A tiny real checkpoint (2 layers, width 32), reviews that we wrote, a run and a bundle that our commands made."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import CommandServer

# Before anything imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"

Shared = Callable[[str, Callable[[Path], Path]], Path]
SHARED = Path(__file__).resolve().parents[2] / "shared"
# What reviews are made of, and what trips up whoever tokenises it or maps it back to its place.
ODD_PIECES = (
    *(
        "<br />",
        "< / bR >",
        "&amp;",
        "&lt;br&gt;",
        "&#8230;",
        "&#x80;",
        "&#xD800;",
        "&#65534;",
        "&nbsp;",
        "&notit;",
        "&not",
    ),
    *(
        "\u0301",
        "\u00e9",
        "\ufeff",
        "\u3000",
        "\x1c",
        "\u4e2d",
        "\ud55c",
        "\ud800",
        "\x00",
        "\u200b",
        "\u2019",
        "\u03a3",
    ),
    *("[MASK]", "[SEP]", "[mask]", "\U00020000", "x" * 101),
    *("-", "'", "don't", "well-made", "Mr.", "...", "! ", " "),
    *("\U0001f44e", "\U0001f3fd", "\ufe0f", "\u200d", "\u2640", "\u2764", "\U0001f525", "\U0001f937", "\U0001f3ac"),
    *("\u2b50", "\u2605", "\u2606", "\u2605\u2605\u2605\xbd\u2606", "\xbd", "&#128078;", "\U0001f648", "\u2757"),
)

SUBJECTS = ["film", "movie", "plot", "story", "cast", "score", "script", "ending", "camera work", "dialogue"]
GOOD = ["great", "wonderful", "moving", "funny", "brilliant", "superb", "charming", "gripping"]
BAD = ["awful", "boring", "dull", "terrible", "stupid", "lifeless", "clumsy", "dreadful"]
OPENINGS = ["I think", "To be fair,", "My sister says", "After an hour", "In the end", "From the start"]


def make_reviews(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """``count`` different (text, label) pairs, labels taking turns."""
    draw = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        label = ("neg", "pos")[len(rows) % 2]
        words = BAD if label == "neg" else GOOD
        parts = [
            f"{draw.choice(OPENINGS)} the {draw.choice(SUBJECTS)} was {draw.choice(words)}."
            for _ in range(draw.randint(2, 5))
        ]
        rows[" ".join(parts) + f" Seen {len(rows) + seed * 1000} times."] = label
    return list(rows.items())


def write_csv(path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def run_command(*arguments: object, cwd: Path | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    """Run ``edge-imdb`` as a person would, in its own process."""
    environment = {**os.environ, **options.pop("env", {})}  # type: ignore[dict-item]
    return subprocess.run(
        [sys.executable, "-m", "edge_imdb", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """``shared(name, make)``: what ``make`` writes to a folder, made once for all processes of pytest-xdist."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def get(name: str, make: Callable[[Path], Path]) -> Path:
        import filelock

        folder, ready = root / name, root / f"{name}.path"
        with filelock.FileLock(root / f"{name}.lock"):
            if not ready.exists():
                folder.mkdir()
                ready.write_text(str(make(folder)))
        return Path(ready.read_text())

    return get


@pytest.fixture(scope="session")
def command_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    """``edge-imdb train`` and ``export`` without the seconds that it takes to import PyTorch."""
    server = CommandServer(tmp_path_factory.mktemp("command_server"))
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _no_bundle_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_IMDB_MODELS", raising=False)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``edge-imdb`` in an empty folder."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        return run_command(*arguments, **{"cwd": tmp_path, **options})  # type: ignore[arg-type]

    return run


@pytest.fixture(scope="session")
def tiny_bert(shared: Shared) -> Path:
    """A BERT checkpoint of 2 layers and width 32, its words those of our reviews, that reads 64 tokens."""
    return shared("tiny-bert", lambda folder: make_bert(folder, 64))


@pytest.fixture(scope="session")
def long_bert(shared: Shared) -> Path:
    """The same, but it reads 512 tokens, which our defaults need."""
    return shared("long-bert", lambda folder: make_bert(folder, 512))


def make_bert(folder: Path, positions: int) -> Path:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    # A fixed vocabulary, because the trainer of word pieces breaks ties differently in every process.
    text = " ".join(text.lower() for text, _ in make_reviews(400))
    signs, words = sorted(set(text) - {" "}), sorted(set(re.findall("[a-z]{2,}", text)))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs, *(f"##{sign}" for sign in signs), *words]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=positions,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reviews_csv(shared: Shared) -> tuple[Path, Path]:
    """Train and test files."""

    def make(folder: Path) -> Path:
        write_csv(folder / "train.csv", make_reviews(480))
        write_csv(folder / "test.csv", make_reviews(60, 1))
        return folder

    folder = shared("reviews", make)
    return folder / "train.csv", folder / "test.csv"


@pytest.fixture(scope="session")
def tiny_run(tiny_bert: Path, reviews_csv: tuple[Path, Path], shared: Shared) -> Path:
    """A finished run of the tiny checkpoint, good enough to label our reviews correctly."""

    def make(folder: Path) -> Path:
        from edge_imdb.train.sentiment import train_sentiment

        return train_sentiment(tiny_options(tiny_bert, reviews_csv, folder))  # type: ignore[arg-type]

    return shared("tiny-run", make)


def tiny_options(base: Path, files: tuple[Path, Path], output: Path, **more: object) -> object:
    from edge_imdb.train.options import SentimentOptions

    given = {
        "base": str(base),
        "data": str(files[0]),
        "test_data": str(files[1]),
        "output": str(output),
        "max_length": 64,
        "epochs": 6.0,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "validation": 0.2,
        "precision": "fp32",
    }
    return SentimentOptions(**{**given, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: Path, shared: Shared) -> Path:
    """The bundle of the tiny run: fp32 and int8."""

    def make(folder: Path) -> Path:
        from edge_imdb.export.options import ExportOptions
        from edge_imdb.export.pipeline import export_run

        options = ExportOptions(quantize=True, max_drop=5, max_loss_rise=0.2)
        return export_run("sentiment", tiny_run, folder / "sentiment", options)

    return shared("tiny-bundle", make)


def fill_options(base: Path, files: tuple[Path, Path], output: Path, **more: object) -> object:
    from edge_imdb.train.options import FillMaskOptions

    given = {
        "base": str(base),
        "data": str(files[0]),
        "test_data": str(files[1]),
        "output": str(output),
        "chunk_length": 64,
        "epochs": 4.0,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "validation": 0.2,
    }
    return FillMaskOptions(**{**given, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def fill_run(tiny_bert: Path, reviews_csv: tuple[Path, Path], shared: Shared) -> Path:
    """A finished fill-mask run of the tiny checkpoint."""

    def make(folder: Path) -> Path:
        from edge_imdb.train.fill_mask import train_fill_mask

        return train_fill_mask(fill_options(tiny_bert, reviews_csv, folder))  # type: ignore[arg-type]

    return shared("fill-run", make)


@pytest.fixture(scope="session")
def fill_bundle(fill_run: Path, shared: Shared) -> Path:
    """The bundle of the fill-mask run: the standard graph in fp32, the edge graph in int8."""

    def make(folder: Path) -> Path:
        from edge_imdb.export.options import ExportOptions
        from edge_imdb.export.pipeline import export_run

        return export_run("fill-mask", fill_run, folder / "fill-mask", ExportOptions(quantize=True))

    return shared("fill-bundle", make)


def as_arguments(options: object) -> list[str]:
    """The command line that gives these options."""
    from dataclasses import asdict

    arguments = ["train", "fill-mask" if hasattr(options, "chunk_length") else "sentiment"]
    for name, value in asdict(options).items():  # type: ignore[call-overload]
        flag = "--" + name.replace("_", "-")
        if value is True:
            arguments.append(flag)
        elif value not in (None, False):
            arguments += [flag, str(value)]
    return arguments


# For two processes on a CPU accelerate needs MPI, or --multi_gpu; both use gloo.
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "edge_imdb"]


def edit_manifest(bundle: Path, **changes: object) -> None:
    """Change a manifest the way somebody who knows the format would: with a new sha256 of itself."""
    from edge_imdb.runtime.bundle import seal

    path = bundle / "edge.json"
    record = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({**record, "sha256": seal(record)}))


def renew_hashes(bundle: Path) -> None:
    """Make the manifest list the files as they are now."""
    from edge_imdb.runtime.bundle import sha256

    files = json.loads((bundle / "edge.json").read_text())["files"]
    found = {name: bundle / name for name in files if (bundle / name).is_file()}
    edit_manifest(bundle, files={n: {"bytes": p.stat().st_size, "sha256": sha256(p)} for n, p in found.items()})


@pytest.fixture
def word_tokenizer() -> object:
    """A tokenizer with a vocabulary of a few words, special tokens as BERT has them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "plot"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer
