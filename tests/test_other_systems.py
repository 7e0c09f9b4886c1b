"""Windows and macOS, simulated: modules and functions that they lack, and what Windows refuses for open files."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_imdb import output
from edge_imdb.cli import main as main_module
from edge_imdb.errors import OutputError
from edge_imdb.output import locked, staging, whole_file
from edge_imdb.runtime import session

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are looked up in /proc")


class Substitute:
    """A module with some names replaced; other names are the module's own."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def open_below(path: str | Path) -> bool:
    """Whether this process has a file open at ``path`` or below it."""
    wanted = os.path.realpath(path)
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target == wanted or target.startswith(wanted + os.sep):
            return True
    return False


def refused(path: str | Path) -> PermissionError:
    return PermissionError(errno.EACCES, "Access is denied", str(path))


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make output.py behave as on Windows.

    There is no fcntl. Folders can't be opened, files that are open for reading can't be flushed, and open files can be
    neither renamed nor removed.
    """
    writable: dict[int, bool] = {}

    def open_file(path: Any, flags: int, *more: Any) -> int:
        if Path(path).is_dir():
            raise refused(path)
        descriptor = os.open(path, flags, *more)
        writable[descriptor] = bool(flags & os.O_RDWR)
        return descriptor

    def fsync(descriptor: int) -> None:
        if not writable[descriptor]:
            raise OSError(errno.EBADF, "Bad file descriptor")
        os.fsync(descriptor)

    def guarded(method: Callable[..., Any], sides: int) -> Callable[..., Any]:
        def call(self: Path, *arguments: Any, **options: Any) -> Any:
            for path in (self, *arguments[: sides - 1]):
                if open_below(path):
                    raise refused(path)
            return method(self, *arguments, **options)

        return call

    monkeypatch.setattr(output, "os", Substitute(os, name="nt", open=open_file, fsync=fsync))
    monkeypatch.setattr(output, "sys", Substitute(sys, platform="win32"))
    monkeypatch.setattr(output, "fcntl", None)
    monkeypatch.setattr(output, "_TRIES", 10)
    for name, sides in (("rename", 2), ("replace", 2), ("unlink", 1)):
        monkeypatch.setattr(Path, name, guarded(getattr(Path, name), sides))


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write_site(target: Path, content: str) -> None:
    with staging(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "page").write_text(content)


@pytest.mark.usefixtures("windows")
def test_the_lock_file_is_removed_though_windows_refuses_while_it_is_open(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "run"):
            assert (tmp_path / ".run.lock").exists()
            with pytest.raises(OutputError, match="Another process is writing"), locked(tmp_path / "run"):
                pass
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("windows")
def test_a_folder_is_replaced_in_two_steps(tmp_path: Path) -> None:
    for content in ("old", "new"):
        write_site(tmp_path / "site", content)
        assert contents(tmp_path) == {"site/sub/page": content}


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("where", ["new", "old"])
def test_a_folder_with_open_files_is_refused_and_the_old_one_kept(tmp_path: Path, where: str) -> None:
    target = tmp_path / "site"
    write_site(target, "old")
    with (
        contextlib.ExitStack() as opened,
        pytest.raises(OutputError, match=r"can't be written \(Access is denied\).*Close the programs"),
        staging(target) as folder,
    ):
        (folder / "page").write_text("new")
        # As a session keeps its weights mapped, or another program reads them.
        opened.enter_context((folder / "page" if where == "new" else target / "sub" / "page").open())
    assert contents(tmp_path) == {"site/sub/page": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.usefixtures("windows")
def test_the_next_writer_undoes_a_replacement_that_was_killed_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "site"
    write_site(target, "old")
    rename, steps = Path.rename, []

    class Killed(BaseException):
        pass

    def killed_at_the_second(self: Path, to: Path) -> Path:
        steps.append(self)
        # From then on nothing is done, as in a process that was killed.
        if len(steps) > 1:
            raise Killed
        return rename(self, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed_at_the_second)
        with pytest.raises(Killed):
            write_site(target, "new")
    assert not target.exists()
    with locked(target):
        assert contents(target) == {"sub/page": "old"}
    assert contents(tmp_path) == {"site/sub/page": "old"}


@pytest.mark.usefixtures("windows")
def test_a_file_that_another_program_reads_is_replaced_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("old")
    reader = path.open()
    timer = threading.Timer(0.15, reader.close)
    timer.start()
    with whole_file(path) as temporary:
        temporary.write_text("new")
    timer.join()
    assert contents(tmp_path) == {"labels.csv": "new"}


@pytest.mark.usefixtures("windows")
def test_a_file_that_stays_open_is_kept_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("old")
    with path.open(), pytest.raises(OutputError, match=r"labels.csv can't be written \(Access is denied\)"):
        output.write_text(path, "new")
    assert contents(tmp_path) == {"labels.csv": "old"}


@pytest.mark.usefixtures("windows")
def test_a_folder_that_cannot_be_discarded_stays(tmp_path: Path) -> None:
    write_site(tmp_path / "site", "old")
    with (tmp_path / "site" / "sub" / "page").open(), pytest.raises(PermissionError):
        output.discard(tmp_path / "site")
    assert contents(tmp_path) == {"site/sub/page": "old"}
    output.discard(tmp_path / "site")
    assert list(tmp_path.iterdir()) == []


# macOS


def swapping(one: bytes, other: bytes, flags: Any) -> int:
    """renamex_np with RENAME_SWAP."""
    assert flags.value == 2
    aside = one + b".aside"
    os.rename(one, aside)  # noqa: PTH104
    os.rename(other, one)  # noqa: PTH104
    os.rename(aside, other)  # noqa: PTH104
    return 0


@pytest.mark.parametrize("library", [SimpleNamespace(renamex_np=swapping), SimpleNamespace()])
def test_macos_swaps_folders_and_older_ones_replace_in_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Any
) -> None:
    monkeypatch.setattr(output, "sys", Substitute(sys, platform="darwin"))
    monkeypatch.setattr(output, "ctypes", Substitute(output.ctypes, CDLL=lambda name, use_errno: library))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x").touch()
    assert output._exchange(tmp_path / "a", tmp_path / "b") is hasattr(library, "renamex_np")
    assert (tmp_path / "b" / "x").exists() is hasattr(library, "renamex_np")
    for content in ("old", "new"):
        write_site(tmp_path / "site", content)
        assert contents(tmp_path / "site") == {"sub/page": content}


@pytest.mark.parametrize("supported", [True, False])
def test_macos_flushes_the_cache_of_the_drive_where_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool
) -> None:
    calls = []

    def control(descriptor: int, command: int) -> None:
        calls.append(command)
        if not supported:
            raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(output, "fcntl", SimpleNamespace(F_FULLFSYNC=51, fcntl=control))
    output.write_text(tmp_path / "a", "text")
    # The file and its folder
    assert calls == [51, 51] and contents(tmp_path) == {"a": "text"}


class Sysctl:
    """macOS's sysctlbyname, with the values of one machine."""

    def __init__(self, values: dict[bytes, int]) -> None:
        self._values = values

    def sysctlbyname(self, name: bytes, value: Any, size: Any, new: None, new_size: int) -> int:
        if name not in self._values:
            return -1
        value._obj.value = self._values[name]
        return 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # Apple silicon: the performance cores alone, because a text waits for its slowest thread
        ({b"hw.perflevel0.physicalcpu": 4, b"hw.physicalcpu": 8}, 4),
        # Intel
        ({b"hw.physicalcpu": 6}, 6),
        ({}, None),
    ],
)
def test_macos_says_how_many_cores_it_has(
    monkeypatch: pytest.MonkeyPatch, values: dict[bytes, int], expected: int | None
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(session, "sys", Substitute(sys, platform="darwin"))
    monkeypatch.setattr(session, "ctypes", Substitute(ctypes, CDLL=lambda name: Sysctl(values)))
    assert session.usable_cores() == expected


def test_windows_leaves_the_number_of_threads_to_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(session, "sys", Substitute(sys, platform="win32"))
    assert session.usable_cores() is None


# The command


def test_the_package_works_without_what_windows_lacks(tmp_path: Path) -> None:
    """In a process of its own: commands run without fcntl, resource, fork, POSIX signals and CPU affinity."""
    code = """
import os, signal, sys
for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[name] = None
for name in ("fork", "register_at_fork", "sched_getaffinity", "getuid", "geteuid", "killpg", "getpgid"):
    delattr(os, name)
for name in ("SIGKILL", "SIGPIPE", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGCHLD"):
    delattr(signal, name)
from edge_imdb.cli.main import main
main(sys.argv[1:])
"""
    for arguments in (["predict", "great film"], ["web", "--build", "site", "--without-fill-mask"], ["info"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert (tmp_path / "site" / "site.json").is_file()


@pytest.mark.parametrize("socket", [True, False])
def test_ctrl_c_ends_a_call_that_never_returns(socket: bool) -> None:
    """With ``socket``, by the way that Windows needs."""
    code = """
import hashlib, sys
from edge_imdb.cli import signals
if sys.argv[1] == "True":
    signals._wakeup_pipe = signals._wakeup_socket
signals.stop_within_a_second()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2**31 - 1)
"""
    command = [sys.executable, "-c", code, str(socket)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        # A shell starts background jobs, this test among them perhaps, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        # Until it is inside the call.
        time.sleep(0.5)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=30) == 130
        finally:
            process.kill()
    assert time.monotonic() - start < 10


def test_a_reader_that_has_gone_is_recognised_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = OSError(errno.EINVAL, "Invalid argument")
    assert main_module._reader_is_gone(BrokenPipeError())
    assert not main_module._reader_is_gone(gone)
    monkeypatch.setattr(main_module, "os", Substitute(os, name="nt"))
    assert main_module._reader_is_gone(gone)
    # A wrong file name has the same number.
    assert not main_module._reader_is_gone(OSError(errno.EINVAL, "Invalid argument", "a?.csv"))
