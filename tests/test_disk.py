"""Full or read-only disks, and two processes that write to one place: one sentence, and nothing is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import as_arguments, fill_options, tiny_options
from killing import CommandServer

from edge_imdb.errors import OutputError
from edge_imdb.output import locked, staging
from edge_imdb.runtime.bundle import open_bundle

Files = tuple[Path, Path]


@contextmanager
def disk(folder: Path, kib: int) -> Iterator[Path]:
    """A separate disk, in memory."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def one_sentence(result: subprocess.CompletedProcess[str], words: str) -> None:
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert result.returncode == 1, result.stderr[-2000:]
    assert len(lines) == 1 and words in lines[0] and "Traceback" not in result.stderr, result.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "kib"), [("sentiment", 64), ("sentiment", 600), ("fill-mask", 64),
                                           ("fill-mask", 500)])  # fmt: skip
def test_training_on_a_full_disk(
    command_server: CommandServer, task: str, kib: int, tiny_bert: Path, reviews_csv: Files, tmp_path: Path
) -> None:
    """At 64 KiB the first checkpoint doesn't fit, with more room a later one or the finished run."""
    make = tiny_options if task == "sentiment" else fill_options
    with disk(tmp_path / "disk", kib) as small:
        result = command_server.command(*as_arguments(make(tiny_bert, reviews_csv, small / "runs")))
        one_sentence(result, "No space left on device")
        assert not (small / "runs" / task).exists()


@pytest.mark.slow
@pytest.mark.parametrize("spare", [8, 150])
def test_export_on_a_full_disk_keeps_the_bundle_that_is_there(
    command_server: CommandServer, tiny_run: Path, tiny_bundle: Path, tmp_path: Path, spare: int
) -> None:
    size = sum(path.stat().st_size // 1024 + 4 for path in tiny_bundle.rglob("*"))
    with disk(tmp_path / "disk", size + spare) as small:
        shutil.copytree(tiny_bundle, small / "sentiment")
        result = command_server.command(
            "export", "sentiment", "--quantize", "--overwrite", "--from", tiny_run.parent, "--to", small,
            "--max-drop", 5,
        )  # fmt: skip
        one_sentence(result, "No space left on device")
        assert [path.name for path in small.iterdir()] == ["sentiment"]
        bundle = open_bundle(small / "sentiment", "sentiment")
        for name in bundle.files:
            bundle.file(name)


@pytest.mark.slow
def test_a_read_only_disk(
    command_server: CommandServer, tiny_bert: Path, reviews_csv: Files, tiny_run: Path, tmp_path: Path
) -> None:
    with disk(tmp_path / "disk", 64) as small:
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        words = "can't be written (Read-only file system): choose another folder."
        for output in (small, small / "deeper"):
            one_sentence(command_server.command(*as_arguments(tiny_options(tiny_bert, reviews_csv, output))), words)
        one_sentence(command_server.command("export", "sentiment", "--from", tiny_run.parent, "--to", small), words)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["predict", "great film"], ["info"], ["fill", "a [MASK]"], ["--help"]])
def test_output_to_a_full_disk(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "edge_imdb", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("Error: No space left on device")


# --- two writers


@pytest.mark.slow
def test_a_second_training_is_told_to_wait(
    command_server: CommandServer, tiny_bert: Path, reviews_csv: Files, tmp_path: Path
) -> None:
    arguments = as_arguments(tiny_options(tiny_bert, reviews_csv, tmp_path, epochs=5000.0))
    partial = tmp_path / "sentiment.partial"
    with subprocess.Popen([sys.executable, "-m", "edge_imdb", *arguments], stderr=subprocess.DEVNULL) as first:
        while not list(partial.glob("checkpoint-*/trainer_state.json")):
            assert first.poll() is None
            time.sleep(0.1)
        for more in ([], ["--overwrite"], ["--resume"]):
            one_sentence(command_server.command(*arguments, *more), "Another process is writing")
        assert first.poll() is None, "the first is still at it"
        first.kill()
    # The lock is free again, and nothing was lost.
    one_sentence(command_server.command(*arguments), "contains an unfinished run: --resume continues it")
    assert list(partial.glob("checkpoint-*/model.safetensors"))


def test_the_lock_is_for_one_target_and_goes_with_its_holder(tmp_path: Path) -> None:
    with locked(tmp_path / "one"):
        code = "import sys; from pathlib import Path; from edge_imdb.output import locked\nwith locked(Path(sys.argv[1])): pass"  # noqa: E501

        def other(name: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True)

        assert "Another process is writing" in other("one").stderr
        assert other("two").returncode == 0
    assert other("one").returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_cleared_away_and_what_it_set_aside_comes_back(tmp_path: Path) -> None:
    for name in (".a.12345678", ".a.partial.abcdefgh", ".a.old.zzzzzzzz"):
        (tmp_path / name).mkdir()
    (tmp_path / ".a.old.zzzzzzzz" / "a").mkdir()
    (tmp_path / ".a.old.zzzzzzzz" / "a" / "kept").write_text("all of it")
    others = [".a.mine", "b", ".ab.12345678"]
    for name in others:
        (tmp_path / name).mkdir()
    with locked(tmp_path / "a"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "a"])
    assert (tmp_path / "a" / "kept").read_text() == "all of it"


def test_staging_inside_a_lock_leaves_only_the_target(tmp_path: Path) -> None:
    with locked(tmp_path / "a"), staging(tmp_path / "a") as folder:
        (folder / "x").write_text("")
        with pytest.raises(OutputError, match="Another process"), locked(tmp_path / "a"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
