"""The registry of tasks: what is known about a task is in its folder, and importing the registry imports no task."""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from edge_imdb.scoring.options import JobOptions, ScoreArguments
from edge_imdb.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]


def sources() -> Iterator[Path]:
    """The source files outside edge_imdb/tasks/, tests and docs."""
    for folder in ("edge_imdb", "train", "export"):
        yield from (path for path in (ROOT / folder).rglob("*.py") if "tasks" not in path.relative_to(ROOT).parts)


def names_a_task(path: Path) -> bool:
    """Whether the code, apart from its docstrings, has a string that is the name of a task."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.Constant) and node.value in TASKS for node in ast.walk(tree))


def test_no_file_outside_the_tasks_names_a_task() -> None:
    """27 files did before the registry: git grep -lE "[\\"'](sentiment|fill-mask)[\\"']" -- edge_imdb train export"""
    assert [str(path.relative_to(ROOT)) for path in sources() if names_a_task(path)] == []


def test_a_comparison_with_a_tasks_name_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('"""sentiment"""\nif task == "fill-mask":\n    pass\n')
    (tmp_path / "b.py").write_text('"""Label the sentiment of reviews."""\n')
    assert names_a_task(tmp_path / "a.py") and not names_a_task(tmp_path / "b.py")


def test_the_registry_imports_no_task_until_it_is_asked_for() -> None:
    code = (
        "import sys, edge_imdb; print(sorted(n for n in sys.modules if n.startswith('edge_imdb.tasks.')), 'numpy' in "
    )
    code += "sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "['edge_imdb.tasks.task'] False", done.stdout + done.stderr


def test_every_option_of_a_job_and_of_a_tasks_rows_is_a_typed_argument_of_score() -> None:
    names = {field.name for field in fields(JobOptions)} | {"model", "provider", "precision"}
    for task in TASKS.values():
        names |= {field.name for field in fields(task.rows)}
    assert names == set(ScoreArguments.__annotations__)


MODULES = [
    "edge_imdb.options", "edge_imdb.runtime.options", "edge_imdb.runtime.behaviour", "edge_imdb.scoring.options",
    *(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
      for path in sorted((ROOT / "edge_imdb" / "tasks").rglob("*.py"))),
]  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_docstrings_run(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0
