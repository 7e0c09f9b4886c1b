"""One object for many threads, and for processes that are forked after it was made."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

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
