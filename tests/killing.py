"""Workshop: run commands that start at once, for tests that kill them.

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

SERVER = """
import importlib, json, os, sys
import edge_imdb.cli.main
for name in sys.argv[1:]:
    importlib.import_module(name)
if "codecarbon" in sys.modules:
    # Which CPU this is takes a process of its own to find out; a child inherits the answer.
    importlib.import_module("codecarbon.core.util").detect_cpu_model()
print("ready", flush=True)
for line in sys.stdin:
    arguments, said = json.loads(line)
    child = os.fork()
    if not child:
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        code = 1
        try:
            edge_imdb.cli.main.main(arguments)
        except SystemExit as done:
            code = done.code
        finally:
            os._exit(code)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


WORKSHOPS = (
    "edge_imdb.cli.train",
    "edge_imdb.train.sentiment",
    "edge_imdb.train.fill_mask",
    "edge_imdb.export.pipeline",
    "edge_imdb.export.sentiment",
    "edge_imdb.export.fill_mask",
)


class Workshop:
    """Runs ``edge-imdb`` commands, one at a time, which need the ``modules`` that are imported before."""

    def __init__(self, folder: Path, modules: tuple[str, ...] = WORKSHOPS) -> None:
        self._said = folder / "said.txt"
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # With models this small, two threads are no faster than one.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self._server.stdout
        return self._server.stdout.readline().strip()

    def run(self, arguments: list[str], kill_after: float | None = None) -> tuple[int, float]:
        """Exit code (-9 for killed) and seconds of a command, killed if it still runs after ``kill_after`` seconds."""
        assert self._server.stdin
        start = time.monotonic()
        self._server.stdin.write(json.dumps([arguments, str(self._said)]) + "\n")
        self._server.stdin.flush()
        child = int(self._read())
        if kill_after is not None:
            time.sleep(max(0.0, start + kill_after - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):  # It had already finished.
                os.kill(child, signal.SIGKILL)
        status = int(self._read())
        return os.waitstatus_to_exitcode(status), time.monotonic() - start

    @property
    def said(self) -> str:
        """The output of the last command."""
        return self._said.read_text(errors="replace")

    def close(self) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait()
