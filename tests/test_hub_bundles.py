"""Bundles sent to the Hub and used from there by name: against a Hub of our own on the loopback interface."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import edit_manifest, run_command
from fake_hub import environment_of, serving

from edge_imdb.runtime.bundle import EMBEDDED

NEEDED = {"edge.json", "config.json", "tokenizer.json", "onnx/model_edge.pb", "onnx/model_quantized.onnx_data"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[ThreadingHTTPServer, dict[str, str]]]:
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as server:
        yield server, environment_of(server, tmp_path / "home")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with a file beside that its manifest doesn't list."""
    folder = Path(shutil.copytree(EMBEDDED / "sentiment", tmp_path / "bundle"))
    (folder / "private-notes.txt").write_text("not for others")
    return folder


def downloaded(home: Path) -> set[str]:
    """The names of the files in the cache, below their commits."""
    return {
        "/".join(path.parts[len(home.parts) + 4 :])
        for path in home.glob("hub/models--*/snapshots/**/*")
        if path.is_symlink()
    }


@pytest.fixture
def uploaded(hub: tuple[ThreadingHTTPServer, dict[str, str]], bundle: Path) -> str:
    """The id of the bundle on the Hub."""
    result = run_command("push", bundle, "me/mine", env=hub[1])
    assert result.returncode == 0 and result.stdout.endswith("/me/mine\n"), result.stderr
    return "me/mine"


def test_push_uploads_what_the_manifest_lists_and_nothing_else(
    hub: tuple[ThreadingHTTPServer, dict[str, str]], bundle: Path, uploaded: str
) -> None:
    folder = hub[0].root / "models" / uploaded  # type: ignore[attr-defined]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    listed = {"edge.json", *json.loads((bundle / "edge.json").read_text())["files"]}
    assert found == {name: (bundle / name).read_bytes() for name in listed}


def test_a_bundle_is_used_by_name_and_offline_from_then_on(
    hub: tuple[ThreadingHTTPServer, dict[str, str]], uploaded: str, tmp_path: Path
) -> None:
    server, environment = hub
    text = ["great film", "--json"]
    expected = run_command("predict", *text).stdout
    first = run_command("predict", *text, "--model", uploaded, cwd=tmp_path, env=environment)
    assert (first.returncode, first.stdout) == (0, expected), first.stderr
    # What a model card or another graph would weigh stays there.
    assert downloaded(tmp_path / "home") == NEEDED
    server.shutdown()
    server.server_close()
    # As long as the Hub is away, and where nobody may ask it.
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        again = run_command("predict", *text, "--model", uploaded, cwd=tmp_path, env=environment | more)
        assert (again.returncode, again.stdout) == (0, expected), again.stderr


def test_an_explanation_fetches_the_graph_that_it_needs(
    hub: tuple[ThreadingHTTPServer, dict[str, str]], uploaded: str, tmp_path: Path
) -> None:
    text = ["explain", "great film", "--json"]
    result = run_command(*text, "--model", uploaded, cwd=tmp_path, env=hub[1])
    assert (result.returncode, result.stdout) == (0, run_command(*text).stdout), result.stderr
    assert downloaded(tmp_path / "home") == NEEDED | {"onnx/model_explain.pb"}


def test_score_takes_a_bundle_by_name(
    hub: tuple[ThreadingHTTPServer, dict[str, str]], uploaded: str, tmp_path: Path
) -> None:
    (tmp_path / "reviews.txt").write_text("great film\ndull film\n")
    job = ["score", "reviews.txt", "--output-format", "jsonl", "--output"]
    result = run_command(*job, "named", "--model", uploaded, cwd=tmp_path, env=hub[1])
    assert result.returncode == 0, result.stderr
    assert run_command(*job, "embedded", cwd=tmp_path).returncode == 0
    named, embedded = (sorted((tmp_path / name).glob("*.jsonl")) for name in ("named", "embedded"))
    assert embedded and [path.read_bytes() for path in named] == [path.read_bytes() for path in embedded]
    wrong = run_command(*job, "wrong", "--revision", "v1", cwd=tmp_path, env=hub[1])
    assert wrong.returncode == 2 and "--model is not a Hub repository" in wrong.stderr


def test_a_revision_pins_a_bundle(
    hub: tuple[ThreadingHTTPServer, dict[str, str]], bundle: Path, uploaded: str, tmp_path: Path
) -> None:
    server, environment = hub
    edit_manifest(bundle, labels=["bad", "good"])
    assert run_command("push", bundle, uploaded, env=environment).returncode == 0
    first = f"{1:040x}"
    for revision, label in ((None, "good"), ("main", "good"), (first, "pos")):
        chosen = () if revision is None else ("--revision", revision)
        result = run_command("predict", "great film", "--model", uploaded, *chosen, cwd=tmp_path, env=environment)
        assert result.stdout.split("\t")[0] == label, result.stderr
    # A commit that is in the cache asks nobody.
    server.asked.clear()  # type: ignore[attr-defined]
    again = run_command("predict", "great film", "--model", uploaded, "--revision", first, env=environment)
    assert again.stdout.startswith("pos")
    assert not [line for line in server.asked if uploaded in line]  # type: ignore[attr-defined]


PICKLE = """
import pickle, sys
from edge_imdb import Sentiment
with Sentiment(sys.argv[1]) as model:
    pickled, expected, shown = pickle.dumps(model), model("great film"), repr(model)
open(sys.argv[2], "wb").write(pickled)
print(shown)
print(expected)
"""
UNPICKLE = """
import pickle, sys
print(pickle.load(open(sys.argv[1], "rb"))("great film"))
"""


def test_a_pickle_of_a_bundle_on_the_hub_pins_its_commit(
    hub: tuple[ThreadingHTTPServer, dict[str, str]], bundle: Path, uploaded: str, tmp_path: Path
) -> None:
    """Another machine fetches the same one, though the main branch has moved on."""
    _, environment = hub
    command = [sys.executable, "-c", PICKLE, uploaded, str(tmp_path / "pickle")]
    made = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    shown, expected = made.stdout.splitlines()
    assert shown == f"<Sentiment me/mine at {0:012x}: int8 on CPUExecutionProvider; neg, pos>"
    edit_manifest(bundle, labels=["bad", "good"])
    assert run_command("push", bundle, uploaded, env=environment).returncode == 0
    shutil.rmtree(tmp_path / "home")
    command = [sys.executable, "-c", UNPICKLE, str(tmp_path / "pickle")]
    read = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=tmp_path)
    assert (read.returncode, read.stdout.strip()) == (0, expected), read.stderr


def test_an_altered_file_on_the_hub_is_refused(
    hub: tuple[ThreadingHTTPServer, dict[str, str]], uploaded: str, tmp_path: Path
) -> None:
    path = hub[0].root / "models" / uploaded / "onnx" / "model_quantized.onnx_data"  # type: ignore[attr-defined]
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    result = run_command("predict", "great film", "--model", uploaded, cwd=tmp_path, env=hub[1])
    assert result.returncode == 1 and "doesn't match its sha256" in result.stderr and not result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "me/missing"], "no folder me/missing here, and no repository of that name"),
        (["--model", "me/mine", "--revision", "v9"], "me/mine has no revision v9"),
        (["--model", "me/empty"], "me/empty is not a bundle, because it has no edge.json"),
        (["--model", "me/gated"], "is gated: ask for access"),
        (["--model", "me/partial"], "lacks tokenizer.json, which its edge.json names"),
    ],
)
def test_what_the_hub_doesnt_have_is_said_in_a_sentence(
    hub: tuple[ThreadingHTTPServer, dict[str, str]], tmp_path: Path, arguments: list[str], words: str
) -> None:
    server, environment = hub
    for name in ("mine", "empty", "gated", "partial"):
        shutil.copytree(EMBEDDED / "sentiment", server.root / "models" / "me" / name)  # type: ignore[attr-defined]
    (server.root / "models/me/empty/edge.json").unlink()  # type: ignore[attr-defined]
    (server.root / "models/me/partial/tokenizer.json").unlink()  # type: ignore[attr-defined]
    result = run_command("predict", "great film", *arguments, cwd=tmp_path, env=environment)
    assert result.returncode == 1 and words in result.stderr and "Traceback" not in result.stderr, result.stderr


@pytest.mark.parametrize(
    "environment", [{"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}, {"HF_HUB_OFFLINE": "1"}]
)
def test_no_network_is_said_with_the_way_out(tmp_path: Path, environment: dict[str, str]) -> None:
    environment = {**environment, "HF_HOME": str(tmp_path)}
    result = run_command("predict", "great film", "--model", "me/mine", cwd=tmp_path, env=environment)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "no folder me/mine here" in result.stderr and "the Hub can't be reached" in result.stderr


def test_a_folder_goes_before_the_hub(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "me").mkdir()
    bundle.rename(tmp_path / "me" / "mine")
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    assert run_command("predict", "great film", "--model", "me/mine", cwd=tmp_path, env=offline).returncode == 0
    result = run_command("predict", "great film", "--model", "me/mine", "--revision", "v1", cwd=tmp_path, env=offline)
    assert result.returncode == 2 and "me/mine is not a Hub repository" in result.stderr


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("altered", 1, "doesn't match its sha256"),
        ("no bundle", 1, "neither a bundle"),
        ("no folder", 1, "There is no folder"),
        ("no name", 2, "'mine' is not the name of a Hub repository"),
        ("not logged in", 1, "log in with `hf auth login`"),
    ],
)
def test_push_refuses_what_nobody_could_use(
    hub: tuple[ThreadingHTTPServer, dict[str, str]], bundle: Path, change: str, code: int, words: str
) -> None:
    server, environment = hub
    if change == "altered":
        path = bundle / "tokenizer.json"
        path.write_text(path.read_text().replace("the", "teh"))
    elif change == "no bundle":
        (bundle / "edge.json").unlink()
    elif change == "no folder":
        shutil.rmtree(bundle)
    elif change == "not logged in":
        environment["HF_TOKEN"] = "hf_wrong"
    result = run_command("push", bundle, "mine" if change == "no name" else "me/mine", env=environment)
    assert result.returncode == code and words in result.stderr and "Traceback" not in result.stderr, result.stderr
    assert not (server.root / "models").exists()  # type: ignore[attr-defined]


IMPORTS = """
import sys
import edge_imdb
edge_imdb.Sentiment(threads=1)("great film")
print([name for name in sys.modules if name.split(".")[0] in ("huggingface_hub", "requests", "httpx")])
"""


def test_the_embedded_bundle_needs_no_huggingface_hub() -> None:
    assert subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "name", ["not a name", "mine", "me/", "me/-x", "me/x.git", "me/a--b", "a/b/c", "me/" + "x" * 99]
)
def test_a_name_that_the_hub_refuses_is_refused_before_anything_is_done(name: str) -> None:
    from edge_imdb.errors import UsageError
    from edge_imdb.runtime.hub import check_name
    from edge_imdb.train.options import FillMaskOptions, SentimentOptions

    for call in (
        lambda: check_name(name),
        SentimentOptions(push_to_hub=name).check,
        FillMaskOptions(push_to_hub=name).check,
    ):
        with pytest.raises(UsageError, match="is not the name of a Hub repository"):
            call()
    check_name("me/my_model-1.0")
