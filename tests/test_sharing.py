"""One object for many threads, and for processes that are forked after it was made."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import make_reviews

from edge_imdb import Sentiment

THREADS, CALLS = 16, 20_000


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_16_threads_get_what_one_thread_gets(threads: int) -> None:
    model = Sentiment(threads=threads)
    texts = [text[: 8 + 3 * number] for number, (text, _) in enumerate(make_reviews(40))]
    expected = [model(text) for text in texts]
    wrong: list[str] = []
    share = CALLS // 2 // THREADS

    def work(number: int) -> None:
        for call in range(share):
            at = (number * 7 + call) % len(texts)
            if model(texts[at]) != expected[at]:
                wrong.append(texts[at])

    workers = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


FORK = """
import multiprocessing, os, sys
from edge_imdb import FillMask, Sentiment
model, fill = Sentiment(threads=int(sys.argv[1])), FillMask(threads=int(sys.argv[1]))
text = "The cast was great, and so was the script. " * 30
before = model(text), fill("a [MASK] film")
def again(number):
    assert (model(text), fill("a [MASK] film")) == before
    return os.getpid()
with multiprocessing.get_context("fork").Pool(3) as pool:
    children = set(pool.map(again, range(30)))
assert os.getpid() not in children
# A child that ends as a program does, and the parent, which goes on with its own threads.
child = os.fork()
if not child:
    again(0)
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
again(0)
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_works_in_forked_processes(threads: int) -> None:
    done = subprocess.run([sys.executable, "-c", FORK, str(threads)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]


CHILDREN = """
import ctypes, os, signal, sys
from edge_imdb import Sentiment
threads, what, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
model = Sentiment(threads=threads)
before = model("great film")
child = os.fork()
if not child:
    signal.alarm(60)
    if what == "deletes":
        del model
    elif what == "closes":
        model.close()
    elif what == "forks again" and not os.fork():
        assert model("great film") == before
        print("grandchild", flush=True)
        sys.exit(0)
    elif what == "writes":
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        libc.fputs(b"written by a C library", ctypes.c_void_p(libc.fopen(path.encode(), b"w")))
    if what == "forks again":
        os.wait()
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", ["nothing", "deletes", "closes", "forks again", "writes"])
def test_a_forked_process_that_has_a_model_ends_as_any_other(threads: int, what: str, tmp_path: Path) -> None:
    """Whether it uses the model or not. Closing the session would wait for threads that don't exist there."""
    command = [sys.executable, "-c", CHILDREN, str(threads), what, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    expected = "grandchild\n7\n" if what == "forks again" else "7\n"
    assert (done.returncode, done.stdout) == (0, expected), done.stderr[-2000:]
    if what == "writes":
        # Its buffer is flushed by exit(), which runs to its end.
        assert (tmp_path / "file").read_text() == "written by a C library"


TELEMETRY = """
import os, sys
before = dict(os.environ)
from edge_imdb import Sentiment
Sentiment(threads=1)("great film")
assert dict(os.environ) == before
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system has no /proc")
def test_onnx_runtime_is_imported_without_its_telemetry(tmp_path: Path) -> None:
    """Telemetry is a thread, and a folder in the user's cache; OpenBLAS is told to start no threads."""
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "CI")}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / ".cache")}
    done = subprocess.run([sys.executable, "-c", TELEMETRY], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr[-2000:]
    assert not list(tmp_path.rglob("*"))
