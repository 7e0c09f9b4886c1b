"""What a call takes, as in transformers' pipelines, and ordered_map: several calls at a time, results in order."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import InputError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

Errors = Literal["raise", "null"]
Text = str | Mapping[str, Any]
Item = TypeVar("Item")
Result = TypeVar("Result")
# How many items are read ahead of the result that is due, for each worker: enough that none waits while another is at
# a long text, and no more, since the items may be a stream.
_AHEAD = 8


def check_count(name: str, value: object) -> int:
    """``value``, if it is a whole number from 1. Raises UsageError."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or (count := value.__index__()) < 1:
        raise UsageError(f"{name} is {value!r:.80}: it must be a whole number, 1 or more.")
    return int(count)


def check_errors(errors: str) -> bool:
    """Whether a bad row gets a null in place of a result. Raises UsageError for another word."""
    if errors not in ("raise", "null"):
        raise UsageError(f"errors is {errors!r:.80}: use 'raise' or 'null'.")
    return errors == "null"


def is_one(inputs: object) -> bool:
    """Whether ``inputs`` is one text, right or wrong, and not several. Raises InputError for a table."""
    if hasattr(inputs, "columns") and hasattr(inputs, "shape"):
        raise InputError(
            f"A {type(inputs).__name__} has several columns: give the one with the texts, as in frame['text']."
        )
    if isinstance(inputs, (str, bytes, bytearray, Mapping)) or getattr(inputs, "ndim", None) == 0:
        return True
    # A PyTorch Dataset has only the latter, which iter() takes too.
    return not (hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__"))


def text_of(item: object) -> str:
    """The text of one input: a str, or a mapping with one under ``"text"``. Raises InputError for anything else."""
    if isinstance(item, Mapping):
        if item.get("text_pair"):
            raise InputError("Pairs of texts are not supported: leave 'text_pair' out.")
        if "text" not in item:
            names = ", ".join(repr(str(name)) for name in item) or "nothing"
            raise InputError(f"The mapping has no 'text' (it has {names:.200}): give {{'text': '…'}}.")
        item = item["text"]
    if getattr(item, "ndim", None) == 0 and hasattr(item, "item"):
        item = item.item()
    elif hasattr(item, "as_py"):
        # A scalar of pyarrow, as its arrays give.
        item = item.as_py()
    if isinstance(item, str):
        return item
    if isinstance(item, (bytes, bytearray)):
        raise InputError("A text is needed, not bytes: decode them first.")
    shown = "nan" if isinstance(item, float) and math.isnan(item) else type(item).__name__
    raise InputError(f"A text is needed, not {'None' if item is None else shown}: give a str.")


def each(
    function: Callable[[str], Result], inputs: Iterable[object], workers: int, instead: Callable[[], Result] | None
) -> Iterator[Result]:
    """``function`` of each text, in order, as ``ordered_map`` gives it.

    An InputError names the index of the text; with ``instead``, its result is given in place of the error.
    """

    def one(numbered: tuple[int, object]) -> Result:
        index, item = numbered
        try:
            return function(text_of(item))
        except InputError as error:
            if instead is not None:
                return instead()
            raise type(error)(f"inputs[{index}]: {error}") from None

    return ordered_map(one, enumerate(inputs), workers)


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """``map`` with ``workers`` calls at a time: each result is yielded as soon as it and those before it are done.

    With several workers ``items`` is walked in a thread of its own, so that a result doesn't wait until the next item
    is there, and at most eight items for each worker are read ahead. Raises UsageError for no workers, and what
    ``function`` and ``items`` raise, at its place.
    """
    workers = check_count("workers", workers)
    return map(function, items) if workers == 1 else _map_ahead(function, items, workers)


def _map_ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    due: SimpleQueue[Future[Result] | BaseException | None] = SimpleQueue()
    room = threading.Semaphore(_AHEAD * workers)
    stopped = threading.Event()
    pool = ThreadPoolExecutor(workers)

    def read() -> None:
        try:
            source = iter(items)
            while room.acquire() and not stopped.is_set():
                try:
                    item = next(source)
                except StopIteration:
                    break
                if stopped.is_set():
                    return
                due.put(pool.submit(function, item))
            due.put(None)
        except BaseException as error:
            due.put(error)

    # Not waited for where the generator is left: it may be waiting for an item that never comes.
    threading.Thread(target=read, daemon=True, name="ordered_map").start()
    try:
        while (future := due.get()) is not None:
            if isinstance(future, BaseException):
                raise future
            result = future.result()
            room.release()
            yield result
    finally:
        stopped.set()
        room.release()
        pool.shutdown(wait=False, cancel_futures=True)
