"""RuntimeOptions: which bundle to open, and what runs it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..options import option

PRECISIONS = ("auto", "int8", "fp32")


@dataclass(frozen=True)
class RuntimeOptions:
    """The arguments that the pipelines of all tasks share.

    ``model`` is the folder of a bundle, or its repository on the Hub, ``"user/repo"``, at ``revision``; None is
    $EDGE_IMDB_MODELS/TASK, or else the embedded bundle. ``threads`` is the number of threads per text; None is one per
    physical core that this process may use. ``precision`` ``auto`` is int8 on a CPU and fp32 elsewhere, or the other if
    the bundle has only that.

    >>> RuntimeOptions(precision="int8").provider
    'auto'
    """

    model: str | os.PathLike[str] | None = option(  # noqa: RUF009 - option returns a field
        None,
        "Folder of the bundle to use, or its name on the Hub, user/repo.  [default: see edge-imdb info]",
        metavar="BUNDLE",
    )
    revision: str | None = option(None, "Branch, tag or commit of a bundle on the Hub.  [default: main branch]")
    precision: str = option("auto", "Which graph of the bundle to run; auto means int8 on a CPU.", PRECISIONS)
    provider: str = option("auto", "Execution provider: auto, cpu, cuda, or another that is installed.")
    threads: int | None = option(
        None, "Number of threads per text.  [default: one per physical core available]", least=1
    )
