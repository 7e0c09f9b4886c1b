"""Work: the queue of texts, the threads that work on them, and the rate by which it says how long the wait is."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from .errors import ClientGone, RequestError

# The share of the newest text in the mean seconds of a text.
_SHARE = 0.05

Call = Callable[[], Any]


class Job:
    """The texts of one request. ``future`` gets the list of their results, in order, or the first error."""

    def __init__(self, task: str, calls: Sequence[Call], weight: float, future: asyncio.Future[list[Any]]) -> None:
        self.task = task
        self.calls = calls
        # Each text's share of the request's weight, in texts.
        self.weight = weight / len(calls)
        self.results: list[Any] = [None] * len(calls)
        self.waiting = self.unfinished = len(calls)
        self.future = future
        # The index of the text that ended it, if one did.
        self.failed = 0


class Work:
    """A bounded queue for all tasks and ``workers`` threads that serve it, first come, first served.

    Made and called in the event loop's thread. Texts are counted, each as the mean seconds of a text of its task: a
    request is taken if the queue, with its texts, takes at most ``max_wait`` seconds, or if nothing is queued.

    Arguments:
        seconds: mean seconds of a text of each task, as measured before the first request.
        observe: called with the task and the seconds of every text that was processed.
    """

    def __init__(
        self,
        workers: int,
        max_wait: float,
        seconds: dict[str, float],
        observe: Callable[[str, float], None] = lambda task, seconds: None,
    ) -> None:
        self.workers = workers
        self.max_wait = max_wait
        self.seconds = dict(seconds)
        # Texts that wait or run, by task, in texts of mean length.
        self.texts = dict.fromkeys(seconds, 0.0)
        self.jobs: set[Job] = set()
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[Job, int] | None] = SimpleQueue()
        # Between a worker that takes a text and a client that goes away.
        self._lock = threading.Lock()
        self.running = 0
        # Daemons, so that a second signal needn't wait for them.
        self._threads = [threading.Thread(target=self._work, name=f"worker {n}", daemon=True) for n in range(workers)]
        for thread in self._threads:
            thread.start()

    @property
    def wait(self) -> float:
        """Seconds until what is queued is done, at the measured rate."""
        return sum(count * self.seconds[task] for task, count in self.texts.items()) / self.workers

    def refusal(self, task: str, weight: float = 1) -> RequestError | None:
        """The 429 for that many texts of ``task``, or None if there is room for them now."""
        if not self.jobs:
            return None
        wait = self.wait + weight * self.seconds[task] / self.workers
        if wait <= self.max_wait:
            return None
        seconds = max(1, math.ceil(wait - self.max_wait))
        return RequestError(429, f"The server is busy: try again in {seconds} s.", seconds)

    def submit(self, task: str, calls: Sequence[Call], weight: float) -> Job:
        """Queue the texts of one request, which count as ``weight`` texts. Raises RequestError 429 if it is full."""
        refused = self.refusal(task, weight)
        if refused is not None:
            raise refused
        job = Job(task, calls, weight, self._loop.create_future())
        self.texts[task] += weight
        self.jobs.add(job)
        for index in range(len(calls)):
            self._queue.put((job, index))
        return job

    def cancel(self, job: Job, reason: BaseException | None = None) -> None:
        """Forget what of a job hasn't begun: it never runs. A text that runs can't be stopped, and is waited for."""
        with self._lock:
            count, job.waiting = job.waiting, 0
            job.calls = ()
        self._count(job, count)
        if not job.future.done():
            job.future.set_exception(reason or ClientGone())
            # Not every job is still awaited.
            job.future.exception()

    def close(self, timeout: float) -> bool:
        """End the workers, and wait for them ``timeout`` seconds. What is queued never runs. False if one still runs.

        For a program that ends: one must not end while a thread is within ONNX Runtime.
        """
        for job in list(self.jobs):
            self.cancel(job)
        for _ in self._threads:
            self._queue.put(None)
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            job, index = item
            with self._lock:
                if not job.waiting:
                    continue
                job.waiting -= 1
                call = job.calls[index]
                self.running += 1
            start = time.perf_counter()
            result, error = None, None
            try:
                result = call()
            except BaseException as caught:
                error = caught
            seconds = time.perf_counter() - start
            with self._lock:
                self.running -= 1
            # The loop is closed only when the program ends.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._done, job, index, result, error, seconds)
            del item, job, call, result, error

    def _done(self, job: Job, index: int, result: Any, error: BaseException | None, seconds: float) -> None:
        self._count(job, 1)
        if error is None:
            mean = self.seconds[job.task]
            self.seconds[job.task] = mean + _SHARE * (seconds / job.weight - mean)
            self._observe(job.task, seconds)
            job.results[index] = result
            if not job.unfinished and not job.future.done():
                job.future.set_result(job.results)
        elif not job.future.done():
            job.failed = index
            self.cancel(job, error)

    def _count(self, job: Job, texts: int) -> None:
        """Count so many texts of a job as done."""
        job.unfinished -= texts
        self.texts[job.task] -= texts * job.weight
        if not job.unfinished:
            self.jobs.discard(job)
        if not self.jobs:
            # What adding and subtracting fractions leaves.
            self.texts = dict.fromkeys(self.texts, 0.0)
