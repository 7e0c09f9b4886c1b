"""README and docs/ say what the program says and state the figures that their sources hold."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("sentiment", "fill-mask")
# Pages whose figures may stand in generated parts only.
HELD = ("README.md", "docs/results.md", "docs/limits.md")
# What looks like a measured figure: with decimals, or with a unit.
FIGURE = re.compile(r"\d+\.\d+|\d\s?(?:%|percent|ms\b|MiB|seconds|reviews per second|times\b)")
LINK = re.compile(r"\]\(([^)#]+)(#[^)]*)?\)")


def _generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


generate = _generate()
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in generate.pages()}


@pytest.fixture(autouse=True)
def _benchmarks_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.parametrize("name", PAGES)
def test_every_generated_part_is_what_the_program_and_the_results_say(name: str) -> None:
    assert PAGES[name] == generate.write(PAGES[name]), "run: python docs/generate.py"


def test_cli_page_shows_every_command() -> None:
    from edge_imdb.cli.main import COMMANDS

    shown = {match[2] for match in generate.BLOCK.finditer(PAGES["docs/cli.md"])}
    assert shown == {"help", "help train sentiment", "help train fill-mask", *(f"help {name}" for name in COMMANDS)}


def test_api_page_shows_every_public_name_and_every_error() -> None:
    import edge_imdb
    from edge_imdb import errors

    page = PAGES["docs/api.md"]
    for name in set(edge_imdb.__all__) - {"EdgeImdbError", "__version__"}:
        assert f"## `{name}`" in page, name
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, edge_imdb.EdgeImdbError):
            assert f"| `{name}` |" in page, name
    for name in ("Sentiment.probabilities", "Sentiment.count_tokens", "errors: Errors = 'raise'"):
        assert name in page, name


def test_every_page_says_what_kind_it_is_and_the_index_lists_it() -> None:
    index = PAGES["docs/README.md"]
    kinds = ("*Tutorial.*", "*How-to guide.*", "*Reference.*", "*Explanation.*")
    for name, page in PAGES.items():
        if name in ("README.md", "docs/README.md"):
            continue
        assert page.splitlines()[2].startswith(kinds), name
        assert f"]({Path(name).name})" in index, name


@pytest.mark.parametrize("name", HELD)
def test_no_figure_stands_outside_a_generated_part(name: str) -> None:
    prose = generate.BLOCK.sub("", PAGES[name])
    # Commands are run, not measured, and a link's text may name a version.
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|Python 3\.\d+|Apache-2\.0", "", prose, flags=re.DOTALL)
    assert FIGURE.findall(prose) == []


def test_readme_python_runs_and_gives_what_its_comments_say() -> None:
    code = re.search(r"```python\n(.*?)```", PAGES["README.md"], re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    shown = re.search(r'^sentiment\("great film"\)  # (.*)$', code[1], re.MULTILINE)
    assert shown is not None
    found = [{**entry, "score": round(entry["score"], 2)} for entry in names["sentiment"]("great film")]
    assert found == ast.literal_eval(shown[1])


def test_readme_has_at_most_150_lines() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("name", PAGES)
def test_every_link_within_the_repository_leads_somewhere(name: str) -> None:
    for target, _ in LINK.findall(PAGES[name]):
        if not target.startswith("http"):
            assert ((ROOT / name).parent / target).exists(), target


def test_docs_lean_on_nothing_outside_the_clone() -> None:
    for name, text in PAGES.items():
        assert not re.search(r"\.\./shared|/work/|/home/", text), name


def test_what_was_measured_on_test_is_all_of_it() -> None:
    assert generate.measured("sentiment")["reviews"] == 25_000


@pytest.mark.parametrize("run", generate.RUNS)
def test_results_were_measured_with_the_weights_that_are_embedded(run: str) -> None:
    from quality import weights_of

    measured = generate.measured(run).get("weights")
    if measured is None:
        pytest.skip(f'not measured yet: python benchmarks/quality.py --only "{run}"')
    assert measured == weights_of(generate.RUNS[run][2][0]), f'run: python benchmarks/quality.py --only "{run}"'


def test_throughput_was_measured_with_the_weights_that_are_embedded() -> None:
    from quality import weights_of

    assert generate.result("throughput.json")["weights"] == weights_of("sentiment"), "run: benchmarks/throughput.py"


def _card(task: str) -> str:
    return (ROOT / "edge_imdb" / "models" / task / "README.md").read_text(encoding="utf-8")


def _cells(card: str, first: str) -> list[str]:
    """The other cells of the table line that begins with ``first``."""
    line = next(line for line in card.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


def _metrics(task: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "edge_imdb" / "models" / task / "edge.json").read_text())["metrics"]
    return found


@pytest.mark.parametrize(
    ("task", "row", "key", "factor", "form"),
    [
        ("sentiment", "accuracy", "accuracy", 1, ".4f"),
        ("sentiment", "F1 (macro)", "f1", 1, ".4f"),
        ("sentiment", "log loss (nats)", "log_loss", 1, ".4f"),
        ("fill-mask", "perplexity", "perplexity", 1, ".2f"),
        ("fill-mask", "top-1 (%)", "top1", 100, ".2f"),
        ("fill-mask", "top-5 (%)", "top5", 100, ".2f"),
    ],
)
def test_card_states_the_figures_of_its_manifest(task: str, row: str, key: str, factor: int, form: str) -> None:
    metrics = _metrics(task)
    validation, *test = _cells(_card(task), row)
    if "test_pytorch" in metrics:
        assert test == [format(factor * metrics["test_pytorch"][key], form)]
    else:
        assert test == [] and "test was not measured (`--skip-test`)" in _card(task)
    if "validation_pytorch" in metrics:
        assert validation == format(factor * metrics["validation_pytorch"][key], form)
    else:
        # An older manifest has only the figure of the fp32 graph, which rounds otherwise.
        assert float(validation) == pytest.approx(factor * metrics["validation_fp32"][key], rel=0.005)


@pytest.mark.parametrize(
    ("task", "keys"), [("sentiment", ("accuracy", "log_loss")), ("fill-mask", ("perplexity", "top1", "top5"))]
)
def test_card_states_what_export_measured_of_int8(task: str, keys: tuple[str, ...]) -> None:
    int8 = _metrics(task)["validation_int8"]
    assert _cells(_card(task), "int8")[2:] == [f"{int8[key]:.4f}" for key in keys]
