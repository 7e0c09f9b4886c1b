"""The rooms of the package: who may import whom, and what the runtime loads. See docs/contributing.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# For each room, the other rooms that it may import. "files" are the modules directly in edge_imdb: errors, options and
# output.
ROOMS = {
    "files": set(),
    "data": {"files"},
    "runtime": {"files", "data"},
    "tasks": {"files", "data", "runtime"},
    "edge_graph": {"files", "data", "runtime", "tasks"},
    "train": {"files", "data", "runtime", "tasks", "edge_graph"},
    "export": {"files", "data", "runtime", "tasks", "edge_graph"},
    "scoring": {"files", "data", "runtime", "tasks"},
    "serve": {"files", "data", "runtime", "tasks", "web"},
    "web": {"files", "data", "runtime", "tasks"},
    "cli": {"files", "data", "runtime", "tasks", "edge_graph", "train", "export", "scoring", "serve", "web"},
}


def modules() -> dict[str, Path]:
    """Every module of the package by its name, ``edge_imdb`` itself and ``__main__`` left out."""
    found = {}
    for top, prefix in (("edge_imdb", "edge_imdb"), ("train", "edge_imdb.train"), ("export", "edge_imdb.export")):
        for path in (ROOT / top).rglob("*.py"):
            parts = [prefix, *path.relative_to(ROOT / top).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name not in ("edge_imdb", "edge_imdb.__main__"):
                found[name] = path
    return found


MODULES = modules()


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[1] in ROOMS else "files"


def imports(module: str, path: Path) -> Iterator[str]:
    """The modules of the package that ``module`` imports, wherever in its code, but for type checkers alone."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")
            base = base[: len(base) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                if inner in MODULES or source in MODULES:
                    yield inner if inner in MODULES else source


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _nodes(node)


def test_every_room_is_known() -> None:
    assert {room_of(module) for module in MODULES} <= set(ROOMS)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_rooms_that_it_may(module: str) -> None:
    own = room_of(module)
    wrong = [found for found in imports(module, MODULES[module]) if room_of(found) not in {own, *ROOMS[own]}]
    assert not wrong


def test_no_task_imports_another_task() -> None:
    for module, path in MODULES.items():
        parts = module.split(".")
        if parts[1:2] == ["tasks"] and path.parent.name != "tasks":
            others = [found for found in imports(module, path) if found.split(".")[:3] != parts[:3]]
            assert all(MODULES[found].parent.name not in ("sentiment", "fill_mask") for found in others), module


def test_imports_are_found_at_the_top_of_a_module_and_inside_its_functions() -> None:
    assert {"edge_imdb.data.metrics", "edge_imdb.errors"} <= set(
        imports("edge_imdb.tasks.sentiment.pipeline", MODULES["edge_imdb.tasks.sentiment.pipeline"])
    )
    task = "edge_imdb.tasks.sentiment"
    assert {"edge_imdb.tasks.sentiment.pipeline", "edge_imdb.tasks.sentiment.rows"} <= set(imports(task, MODULES[task]))


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module: set(imports(module, path)) - {module} for module, path in MODULES.items()}
    left = set(graph)
    # Take away what imports nothing that is left, until nothing is left.
    while free := {module for module in left if not graph[module] & left}:
        left -= free
    assert not left


HEAVY = (
    "torch", "transformers", "datasets", "accelerate", "optimum", "onnx", "pyarrow", "pandas", "starlette", "uvicorn",
    "ray", "huggingface_hub", "matplotlib", "codecarbon", "edge_imdb.train", "edge_imdb.export", "edge_imdb.edge_graph",
    "edge_imdb.serve", "edge_imdb.scoring", "edge_imdb.web",
)  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        "import edge_imdb",
        "import edge_imdb; edge_imdb.Sentiment()('great film')",
        "import edge_imdb; edge_imdb.FillMask()('A great [MASK].')",
        "from edge_imdb.cli.main import cli; cli(['predict', 'great film'], standalone_mode=False)",
        "from edge_imdb.cli.main import cli; cli(['fill', 'A great [MASK].'], standalone_mode=False)",
    ],
)
def test_inference_loads_no_library_of_training_or_export(code: str, tmp_path: Path) -> None:
    code = f"{code}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr
