"""The examples in the docstrings of the package run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_rooms import MODULES, room_of

# Modules that need an extra are imported only if their extra is installed.
EXTRAS = {
    "train": "transformers",
    "export": "optimum",
    "edge_graph": "onnx",
    "serve": "starlette",
    "scoring": "pyarrow",
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)


def with_examples() -> list[str]:
    return sorted(name for name, path in MODULES.items() if ">>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", with_examples())
def test_the_examples_of_a_module_are_right(name: str) -> None:
    if extra := EXTRAS.get(room_of(name)):
        pytest.importorskip(extra, reason=f"{extra} is not installed")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} needs {error.name or error}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_the_public_classes_have_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name, kind in (("sentiment", "Sentiment"), ("fill_mask", "FillMask")):
        module = importlib.import_module(f"edge_imdb.tasks.{name}.pipeline")
        shown = {
            test.name.removeprefix(f"{kind}.") for test in finder.find(getattr(module, kind), kind) if test.examples
        }
        own = vars(getattr(module, kind)).items()
        public = {method for method, value in own if callable(value) and not method.startswith("_")} | {"__call__"}
        # For the server alone.
        assert public - {"wrap_tokenizer"} <= shown
