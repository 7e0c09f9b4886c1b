"""The inputs of a pipeline call, as transformers accepts them, and ordered_map: concurrent calls, results in order.

is_one, is_lazy, walk, text_of, each, Results, ordered_map.
"""

from __future__ import annotations

import collections.abc
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from ..errors import InputError, UsageError
from .threads import start

if TYPE_CHECKING:
    from concurrent.futures import Future

Errors = Literal["raise", "null"]
Text = str | Mapping[str, Any]
Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
Result = TypeVar("Result")
# How many items are read ahead of the next result, per worker: enough to keep the others busy while one worker has a
# long text, and no more, because the items may come from an endless stream.
_AHEAD = 8
# These iterators walk the stored items of a list, or call __getitem__ until an IndexError. A subclass that overrides
# only __getitem__ and __len__ needs neither.
_INHERITED_ITERATORS = (list.__iter__, tuple.__iter__, collections.abc.Sequence.__iter__)
_STORED_ITEMS = (list.__getitem__, tuple.__getitem__)


class MapStyle(Protocol[Item_co]):
    """A map-style data set, such as a PyTorch ``Dataset`` or transformers' ``KeyDataset``: items by index."""

    def __getitem__(self, index: int, /) -> Item_co: ...


def check_count(name: str, value: object) -> int:
    """``value`` as an int, if it is a whole number of at least 1. Raises UsageError.

    >>> check_count("top_k", 5)
    5
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or (count := value.__index__()) < 1:
        raise UsageError(f"{name} is {value!r:.80}: it must be a whole number, 1 or more.")
    return int(count)


def check_errors(errors: str) -> bool:
    """Whether an unusable text gets a null result instead of raising. Raises UsageError for an unknown value."""
    if errors not in ("raise", "null"):
        raise UsageError(f"errors is {errors!r:.80}: use 'raise' or 'null'.")
    return errors == "null"


def is_one(inputs: object) -> bool:
    """Whether ``inputs`` is a single text, valid or not, rather than several. Raises InputError for a table.

    >>> is_one("great film"), is_one({"text": "great film"}), is_one(None), is_one(["great film"])
    (True, True, True, False)
    """
    if hasattr(inputs, "columns") and hasattr(inputs, "shape"):
        raise InputError(f"A {type(inputs).__name__} has several columns: pass the text column, as in frame['text'].")
    if isinstance(inputs, (str, bytes, bytearray, Mapping)) or getattr(inputs, "ndim", None) == 0:
        return True
    return not (_has(inputs, "__iter__") or _has(inputs, "__getitem__"))


def is_lazy(inputs: object) -> bool:
    """Whether several texts may be expensive to read or endless, so that the results come as an iterator.

    This is the case for iterators, for data sets (of PyTorch, of the library datasets, or any class with
    ``__getitem__`` and no ``__iter__``) and for iterables without a length. Lists, arrays and columns give a list.

    >>> is_lazy(["great film"]), is_lazy(iter(["great film"]))
    (False, True)
    """
    if isinstance(inputs, list):
        return False
    if isinstance(inputs, (Iterator, *_data_sets())):
        return True
    return not (_has(inputs, "__iter__") and _has(inputs, "__len__"))


def walk(inputs: Any) -> Iterable[Any]:
    """The items of several inputs. It never asks for an index beyond ``len(inputs)``.

    A PyTorch Dataset has no ``__iter__``, and Python's own fallback calls ``__getitem__`` until an IndexError, which
    many data sets never raise. Raises InputError if ``__len__`` fails.

    >>> class Reviews:
    ...     def __len__(self):
    ...         return 2
    ...
    ...     def __getitem__(self, index):
    ...         return f"review {index}"
    >>> list(walk(Reviews()))
    ['review 0', 'review 1']
    """
    kind = type(inputs)
    iterate, get = getattr(kind, "__iter__", None), getattr(kind, "__getitem__", None)
    if iterate is not None and (iterate not in _INHERITED_ITERATORS or get in _STORED_ITEMS):
        items: Iterable[Any] = inputs
        return items
    if not _has(inputs, "__len__"):
        return _until_index_error(inputs)
    try:
        length = len(inputs)
    except (TypeError, NotImplementedError) as error:
        raise InputError(
            f"The {kind.__name__} has no length ({error}): pass an iterator, as in (row['text'] for row in data)."
        ) from error
    return (inputs[index] for index in range(length))


def _until_index_error(inputs: Any) -> Iterator[Any]:
    index = 0
    while True:
        try:
            item = inputs[index]
        except (IndexError, StopIteration):
            return
        except KeyError as error:
            raise InputError(
                f"The {type(inputs).__name__} has no item {index} (KeyError: {error}): give the class a __len__, or "
                "let __getitem__ raise IndexError after the last item."
            ) from error
        yield item
        index += 1


def _has(inputs: object, method: str) -> bool:
    # Python looks special methods up on the class, and None there switches a method off.
    return getattr(type(inputs), method, None) is not None


def _data_sets() -> tuple[type, ...]:
    """The data set classes of the libraries that this process has already imported."""
    names = (("torch.utils.data", ("Dataset",)), ("datasets", ("Dataset", "IterableDataset")))
    loaded = [(sys.modules.get(module), classes) for module, classes in names]
    found = [getattr(module, name, None) for module, classes in loaded if module for name in classes]
    return tuple(kind for kind in found if isinstance(kind, type))


def text_of(item: object) -> str:
    """The text of one input: a str, or a mapping with a str under ``"text"``. Raises InputError for anything else.

    >>> text_of({"text": "great film", "label": 1})
    'great film'
    """
    if isinstance(item, Mapping):
        if item.get("text_pair"):
            raise InputError("Pairs of texts are not supported: leave 'text_pair' out.")
        if "text" not in item:
            names = ", ".join(repr(str(name)) for name in item) or "nothing"
            if type(item).__name__.endswith("DatasetDict"):
                raise InputError(f"The data set has the splits {names:.200}: pass one of them, as in data['test'].")
            raise InputError(f"The mapping has no 'text' (it has {names:.200}): give {{'text': '…'}}.")
        item = item["text"]
        if isinstance(item, (list, tuple)):
            raise InputError("The mapping's 'text' is a list of texts, not a text: pass the list itself.")
    if getattr(item, "ndim", None) == 0 and hasattr(item, "item"):
        item = item.item()
    elif hasattr(item, "as_py"):
        # A pyarrow scalar.
        item = item.as_py()
    if isinstance(item, str):
        return item
    if isinstance(item, (bytes, bytearray)):
        raise InputError("A text is needed, not bytes: decode them first.")
    if isinstance(item, (list, tuple)):
        kind = type(item).__name__
        raise InputError(f"A text is needed, not {kind}: pass a flat list of texts. Pairs are not supported.")
    shown = "nan" if isinstance(item, float) and math.isnan(item) else type(item).__name__
    raise InputError(f"A text is needed, not {'None' if item is None else shown}: give a str.")


def each(
    function: Callable[[str], Result], inputs: object, workers: int, instead: Callable[[], Result] | None
) -> Iterator[Result]:
    """``function`` of each text, in order, as ``ordered_map`` yields it.

    An InputError gets the index of the text in front of its message. With ``instead``, a text that raises it gets the
    result of ``instead()``.

    >>> list(each(str.upper, ["great", "dull"], 1, None))
    ['GREAT', 'DULL']
    """

    def call(numbered: tuple[int, object]) -> Result:
        index, item = numbered
        try:
            return function(text_of(item))
        except InputError as error:
            if instead is not None:
                return instead()
            raise type(error)(f"inputs[{index}]: {error}") from None

    return ordered_map(call, enumerate(walk(inputs)), workers)


def results_for(inputs: Any, results: Iterator[Result]) -> Iterator[Result] | list[Result]:
    """``results`` in the form that fits the inputs: an iterator for lazy ones, with a length if they have one.

    >>> results_for(["great film"], iter(["pos"]))
    ['pos']
    """
    if not is_lazy(inputs):
        return list(results)
    if isinstance(inputs, Iterator) or not _has(inputs, "__len__"):
        return results
    try:
        return Results(results, len(inputs))
    except (TypeError, NotImplementedError):
        return results


class Results(Iterator[Result], Generic[Result]):
    """The results for a data set, one at a time. ``len`` is the number of texts, so ``tqdm(results)`` knows the total.

    >>> results = Results(iter(["pos", "neg"]), 2)
    >>> next(results), len(results)
    ('pos', 2)
    """

    def __init__(self, results: Iterator[Result], length: int) -> None:
        self._results, self._length = results, length

    def __len__(self) -> int:
        return self._length

    def __next__(self) -> Result:
        return next(self._results)


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """``map`` with ``workers`` concurrent calls. A result is yielded as soon as it and all earlier ones are done.

    With several workers, a separate thread reads ``items``, so a result never waits for the next item to arrive. It
    reads at most eight items per worker ahead. Raises UsageError if ``workers`` is less than 1. An exception of
    ``function`` or ``items`` is raised in place of the result that it prevents.

    >>> list(ordered_map(len, ["a", "bc", "def"], 2))
    [1, 2, 3]
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

    # A daemon, because it may wait for an item that never comes after the caller has dropped the generator.
    start(threading.Thread(target=read, daemon=True, name="ordered_map"))
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
