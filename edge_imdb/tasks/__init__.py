"""TASKS: the registry of tasks. A task is a folder with a ``Task`` named ``TASK``, and a line in ``TASKS``.

Importing this module imports no task, so ``import edge_imdb`` stays light.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping

from ..runtime import behaviour
from .task import Task


class Registry(MutableMapping[str, Task]):
    """Tasks by their names. The value is given as a module, which is imported when the task is first asked for.

    >>> list(TASKS)
    ['sentiment', 'fill-mask']
    >>> TASKS["sentiment"].pipeline_tag
    'text-classification'
    """

    def __init__(self, modules: dict[str, str]) -> None:
        self._modules = dict(modules)

    def __getitem__(self, name: str) -> Task:
        task: Task = importlib.import_module(self._modules[name], __name__).TASK
        return task

    def __setitem__(self, name: str, module: str) -> None:  # type: ignore[override]
        self._modules[name] = module

    def __delitem__(self, name: str) -> None:
        del self._modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __contains__(self, name: object) -> bool:
        # Mapping's own would import the task.
        return name in self._modules


TASKS = Registry(
    {
        "sentiment": ".sentiment",
        "fill-mask": ".fill_mask",
    }
)
# The task of the commands that take a task, if none is given.
DEFAULT_TASK = next(iter(TASKS))
behaviour.tasks = TASKS
