"""Folders appear whole or not at all, and nothing that was there is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_imdb import output
from edge_imdb.errors import OutputError


def fill(folder: Path, content: str) -> None:
    (folder / "sub").mkdir()
    (folder / "a").write_text(content)
    (folder / "sub" / "b").write_text(content)


def contents(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("exchange", [True, False])
def test_staged_folder_replaces_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(output, "_exchange", lambda one, other: False)
    target = tmp_path / "target"
    for content in ("old", "new"):
        with output.staging(target) as folder:
            fill(folder, content)
            assert not target.exists() or contents(target) == {"old"}
        assert contents(target) == {content}
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with output.staging(target) as folder:
        fill(folder, "old")
    with pytest.raises(KeyError), output.staging(target) as folder:
        fill(folder, "new")
        raise KeyError
    assert contents(target) == {"old"} and [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    full = pytest.raises(OutputError, match=r"can't be written \(No space left on device\)")
    with full, output.staging(tmp_path / "target"):
        raise OSError(28, os.strerror(28))
    assert list(tmp_path.iterdir()) == []


def test_symlinks_and_files_are_no_place_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(OutputError, match="not a folder"):
            output.check_free(tmp_path / name, True, "bundle", "edge.json")


def test_a_reader_never_sees_half_a_bundle_though_writers_are_killed(tiny_bundle: Path, tmp_path: Path) -> None:
    """Export's last step many times, each writer killed at a different moment: a reader always finds a whole bundle."""
    from edge_imdb.runtime.bundle import open_bundle

    target = tmp_path / "sentiment"
    shutil.copytree(tiny_bundle, target)
    code = (
        "import shutil, sys; from pathlib import Path; from edge_imdb.output import staging\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    with staging(Path(sys.argv[2])) as folder:\n"
        "        shutil.copytree(sys.argv[1], folder, dirs_exist_ok=True)\n"
    )
    looks = 0
    for moment in range(15):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tiny_bundle), str(target)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout
            writer.stdout.readline()
            end = time.monotonic() + 0.005 * moment
            while True:
                assert (target / "edge.json").is_file()
                looks += 1
                if time.monotonic() >= end:
                    break
            writer.send_signal(signal.SIGKILL)
        bundle = open_bundle(target, "sentiment")
        for name in bundle.files:
            bundle.file(name)
    assert looks > 15
