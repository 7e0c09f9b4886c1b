"""What a signal handler raises during a call, such as a time limit, reaches the caller as it is."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from edge_imdb import FillMask, Sentiment
from edge_imdb.data.threads import start
from edge_imdb.errors import BundleError, InputError, raised_by
from edge_imdb.runtime import hub

LONG = "The plot is thin, the dialogue wooden, and after an hour I wanted it to end. " * 30

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no SIGALRM")


class SoftTimeLimit(Exception):
    """As Celery's SoftTimeLimitExceeded."""


@contextmanager
def limit(seconds: float, kind: type[BaseException]) -> Iterator[None]:
    def expire(number: int, frame: FrameType | None) -> None:
        raise kind("the time is up")

    before = signal.signal(signal.SIGALRM, expire)
    # Again after two seconds: Python swallows what is raised while it runs a destructor or a callback of weakref.
    signal.setitimer(signal.ITIMER_REAL, seconds, 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupt(call: Callable[[], object], kind: type[BaseException], seconds: float) -> None:
    """Repeat ``call`` until the time limit ends it, and check that it ends with what the handler raised."""
    with pytest.raises(kind, match="the time is up") as caught, limit(seconds, kind):
        while True:
            call()
    assert caught.type is kind


# Also classes that libraries raise themselves: only the traceback shows that a handler raised these.
KINDS = [SoftTimeLimit, TimeoutError, RuntimeError, ValueError, Exception, KeyboardInterrupt]


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_limit_ends_inference(kind: type[BaseException]) -> None:
    draw = random.Random(5)
    sentiment = Sentiment(threads=1)
    for _ in range(30 if kind is SoftTimeLimit else 5):
        interrupt(lambda: sentiment.logits(LONG), kind, draw.uniform(0.002, 0.06))
    assert sentiment("great film")[0]["label"] == "pos"


def test_a_time_limit_ends_every_other_call() -> None:
    draw = random.Random(6)
    sentiment, fill = Sentiment(threads=1), FillMask(threads=1)
    calls: list[Callable[[], object]] = [
        lambda: sentiment.explain(LONG),
        lambda: sentiment([LONG] * 4, workers=2),
        lambda: fill(LONG + "[MASK]"),
        lambda: fill("A [MASK] [MASK].", joint=True),
    ]
    for call in calls:
        for _ in range(4):
            interrupt(call, SoftTimeLimit, draw.uniform(0.002, 0.08))


@pytest.mark.parametrize("kind", [SoftTimeLimit, TimeoutError])
def test_a_time_limit_ends_the_opening_of_a_bundle(kind: type[BaseException]) -> None:
    draw = random.Random(7)
    # Imports the libraries. An import that is interrupted can't be repeated in the same process.
    Sentiment(threads=1).close()
    for _ in range(10):
        interrupt(lambda: Sentiment(threads=1), kind, draw.uniform(0.002, 0.15))


@pytest.mark.parametrize("kind", [SoftTimeLimit, TimeoutError])
def test_a_time_limit_ends_a_download(kind: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def wait(*arguments: object, **options: object) -> None:
        time.sleep(30)

    for name in ("model_info", "whoami", "create_repo"):
        monkeypatch.setattr(huggingface_hub.HfApi, name, wait)
    interrupt(lambda: hub.fetch("user/repo", "edge.json"), kind, 0.05)
    interrupt(lambda: hub.check_access("user/repo"), kind, 0.05)
    interrupt(lambda: hub.upload(Path(), [], "user/repo"), kind, 0.05)


@pytest.mark.parametrize("kind", [SoftTimeLimit, TimeoutError, OSError])
def test_a_time_limit_ends_the_reading_of_a_store(kind: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    from edge_imdb.scoring import storage

    monkeypatch.setattr(MemoryFileSystem, "isfile", lambda *arguments: time.sleep(30))
    interrupt(lambda: storage.glob("memory://reviews.csv"), kind, 0.05)


def test_errors_of_the_libraries_are_still_translated() -> None:
    sentiment = Sentiment(threads=1)
    with pytest.raises(BundleError, match="can't read a text of 2 tokens"):
        sentiment._model.run([10**6, 10**6])
    assert raised_by(ValueError("x"), "onnxruntime") and raised_by(OSError("x"))
    assert not raised_by(InputError("x")) and not raised_by(SoftTimeLimit("x"), "onnxruntime")
    assert not raised_by(MemoryError()) and not raised_by(KeyboardInterrupt(), "tokenizers")


def test_a_time_limit_while_a_thread_starts_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = threading._start_new_thread  # type: ignore[attr-defined]
    begun = threading.Event()

    def interrupted(*arguments: object) -> None:
        begin(*arguments)
        # The thread has registered itself by now, which CPython's start doesn't expect of a thread that failed.
        begun.wait(10)
        raise SoftTimeLimit("the time is up")

    thread = threading.Thread(target=begun.set)
    monkeypatch.setattr(threading, "_start_new_thread", interrupted)
    with pytest.raises(SoftTimeLimit):
        start(thread)
    thread.join()
