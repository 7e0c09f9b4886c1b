"""CommandServer: run commands that start at once, for tests that kill them, at a random moment or at a chosen write.

Importing PyTorch takes seconds, and thirty killed commands would take minutes for that alone. So a server imports
everything first, and forks a child for each command.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# Set by make soak: many more kills.
SOAK = bool(os.environ.get("EDGE_IMDB_SOAK"))

SERVER = """
import importlib, json, os, sys, traceback
import edge_imdb.cli.main
import kill_points
for name in sys.argv[1:]:
    importlib.import_module(name)
if "codecarbon" in sys.modules:
    # Finding out the CPU's name takes a process of its own; a child inherits the answer.
    importlib.import_module("codecarbon.core.util").detect_cpu_model()
print("ready", flush=True)
for line in sys.stdin:
    arguments, said, watched, kill_at, written, folder, environment = json.loads(line)
    child = os.fork()
    if not child:
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        os.environ.update(environment)
        if folder is not None:
            os.chdir(folder)
        code = 1
        if watched is not None:
            kill_points.watch(watched, kill_at, written)
        try:
            edge_imdb.cli.main.main(arguments)
        except SystemExit as done:
            code = done.code
        except BaseException:
            # As the interpreter would, which a forked child doesn't end in.
            traceback.print_exc()
        finally:
            os._exit(code)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


TRAIN_AND_EXPORT = (
    "edge_imdb.cli.train",
    "edge_imdb.train.sentiment",
    "edge_imdb.train.fill_mask",
    "edge_imdb.export.pipeline",
    "edge_imdb.export.sentiment",
    "edge_imdb.export.fill_mask",
)


class CommandServer:
    """Runs ``edge-imdb`` commands, one at a time, in children that have already imported ``modules``.

    ``environment`` is for the server. What a library reads from it once, when it is imported, can't change later.
    """

    def __init__(
        self, folder: Path, modules: tuple[str, ...] = TRAIN_AND_EXPORT, environment: dict[str, str] | None = None
    ) -> None:
        self._said, self._written = folder / "said.txt", folder / "written.txt"
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # With models this small, two threads are no faster than one.
            env={**os.environ, **(environment or {}), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
            # A shell starts background jobs, these tests among them perhaps, with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            start_new_session=True,
        )
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self._server.stdout
        return self._server.stdout.readline().strip()

    def run(self, arguments: list[str], kill_after: float | None = None) -> tuple[int, float]:
        """Exit code (-9 for killed) and seconds of a command, killed if it still runs after ``kill_after`` seconds."""
        start = time.monotonic()
        child = self._start(arguments, None, None)
        if kill_after is not None:
            time.sleep(max(0.0, start + kill_after - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):  # It had already finished.
                os.kill(child, signal.SIGKILL)
        return self.wait(), time.monotonic() - start

    def steps(self, arguments: list[str], folder: Path) -> list[str]:
        """Run a command and return every step by which it changed ``folder``, e.g. ``rename .a.tmp -> a``."""
        self._start(arguments, folder, None)
        assert self.wait() in (0, 3), self.said
        return self._written.read_text().splitlines()

    def run_until(self, arguments: list[str], folder: Path, step: int | str) -> int:
        """The exit code of a command that is killed just before its ``step``-th change of ``folder``, from 0.

        ``step`` may also be a part of the line by which ``steps`` describes the change.
        """
        self._start(arguments, folder, step)
        return self.wait()

    def command(
        self, *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Like ``conftest.run_command``. Both output streams are in ``stderr``."""
        self.start([str(argument) for argument in arguments], cwd, env)
        return subprocess.CompletedProcess(arguments, self.wait(), stdout="", stderr=self.said)

    def start(self, arguments: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> int:
        """Start a command and return its process id. ``wait`` must follow."""
        return self._start(arguments, None, None, cwd, env)

    def wait(self) -> int:
        """The exit code of the command that ``start`` started, once it has ended."""
        return os.waitstatus_to_exitcode(int(self._read()))

    def _start(
        self,
        arguments: list[str],
        watched: Path | None,
        kill_at: int | str | None,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> int:
        assert self._server.stdin
        paths = [None if path is None else str(path) for path in (watched, self._written, cwd)]
        message = [arguments, str(self._said), paths[0], kill_at, paths[1], paths[2], env or {}]
        self._server.stdin.write(json.dumps(message) + "\n")
        self._server.stdin.flush()
        return int(self._read())

    @property
    def said(self) -> str:
        """The output of the last command."""
        return self._said.read_text(errors="replace")

    def close(self) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait()


def spread(steps: list[str], count: int) -> list[int]:
    """At most ``count`` indices into ``steps``: the first of each kind of step, then evenly spaced ones.

    >>> spread(["open a", "fsync a", "rename a -> b", "open c", "fsync c"], 4)
    [0, 1, 2, 4]
    """
    kinds: dict[str, int] = {}
    for index, step in enumerate(steps):
        kinds.setdefault(step.partition(" ")[0], index)
    chosen = set(list(kinds.values())[:count])
    wanted = min(count, len(steps)) - len(chosen)
    for index in (round(k * (len(steps) - 1) / max(1, wanted)) for k in range(wanted, 0, -1)):
        while index in chosen and index > 0:
            index -= 1
        chosen.add(index)
    return sorted(chosen)
