"""Work: the queue of texts, its worker threads, and the measured rate that predicts how long a request waits."""

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

# The weight of the newest text in the moving average of the seconds per text.
_SHARE = 0.05

Call = Callable[[], Any]


class Job:
    """The texts of one request. ``future`` gets the list of their results, in order, or the first error."""

    def __init__(self, task: str, calls: Sequence[Call], weight: float, future: asyncio.Future[list[Any]]) -> None:
        self.task = task
        self.calls = calls
        # The weight of a single text, in texts of mean length.
        self.weight = weight / len(calls)
        self.results: list[Any] = [None] * len(calls)
        self.waiting = self.unfinished = len(calls)
        self.future = future
        # The index of the text whose error ended the job.
        self.failed = 0


class Work:
    """A bounded queue for all tasks, and ``workers`` threads that take texts from it in order of arrival.

    Must be created and called in the event loop's thread. The length of the queue is measured in seconds: the texts of
    every task count as the mean seconds of a text of that task. A request is accepted if the queue including its own
    texts takes at most ``max_wait`` seconds, or if the queue is empty.

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
        # By task: the texts that wait or run, in texts of mean length.
        self.texts = dict.fromkeys(seconds, 0.0)
        self.jobs: set[Job] = set()
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[Job, int] | None] = SimpleQueue()
        # Protects a job from a worker that takes its text while the client's disconnect cancels it.
        self._lock = threading.Lock()
        self.running = 0
        # Daemon threads, so that a second signal can end the process at once.
        self._threads = [threading.Thread(target=self._work, name=f"worker {n}", daemon=True) for n in range(workers)]
        for thread in self._threads:
            thread.start()

    @property
    def wait(self) -> float:
        """Seconds until the queue is empty, at the measured rate."""
        return sum(count * self.seconds[task] for task, count in self.texts.items()) / self.workers

    def refusal(self, task: str, weight: float = 1) -> RequestError | None:
        """The error 429 if ``weight`` texts of ``task`` would wait too long; None if there is room for them."""
        if not self.jobs:
            return None
        wait = self.wait + weight * self.seconds[task] / self.workers
        if wait <= self.max_wait:
            return None
        seconds = max(1, math.ceil(wait - self.max_wait))
        return RequestError(429, f"The server is busy: try again in {seconds} s.", seconds)

    def submit(self, task: str, calls: Sequence[Call], weight: float) -> Job:
        """Queue the texts of a request as ``weight`` texts. Raises RequestError 429 if the queue is full."""
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
        """Drop the texts of a job that haven't started. A text that is running can't be stopped and runs to its end."""
        with self._lock:
            count, job.waiting = job.waiting, 0
            job.calls = ()
        self._count(job, count)
        if not job.future.done():
            job.future.set_exception(reason or ClientGone())
            # Marks the exception as seen, since nobody may await this job any more.
            job.future.exception()

    def close(self, timeout: float) -> bool:
        """Drop the queue, end the workers and wait ``timeout`` seconds for them. False if a worker still runs.

        A program must not exit normally while a thread is inside ONNX Runtime.
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
            # The loop is closed only while the program exits.
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
        """Count ``texts`` texts of a job as done."""
        job.unfinished -= texts
        self.texts[job.task] -= texts * job.weight
        if not job.unfinished:
            self.jobs.discard(job)
        if not self.jobs:
            # Removes the rounding error of adding and subtracting fractions.
            self.texts = dict.fromkeys(self.texts, 0.0)
