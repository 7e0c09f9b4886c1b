"""reference: the Markdown of one public name, from its source: signature, docstring, fields and public methods.

It reads the source with ``ast`` and imports nothing, so the page about training needs no PyTorch.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Where the folders beside edge_imdb are installed.
FOLDERS = {"edge_imdb.train": "train", "edge_imdb.export": "export"}
WIDTH = 100


def reference(module: str, name: str, level: int = 2) -> str:
    """The Markdown of a public function or class, headed at ``level``.

    >>> print(reference("edge_imdb.errors", "BlankError").splitlines()[0])
    ## `BlankError`
    """
    node = _find(module, name)
    if isinstance(node, ast.ClassDef):
        return _class(module, node, level)
    return _function(node, node.name, level)


def public_names(module: str) -> list[str]:
    """The public functions and classes that a module defines, in the order of its source."""
    return [node.name for node in _tree(module).body if _is_public(node)]  # type: ignore[attr-defined]


def error_table() -> str:
    """The errors that edge-imdb raises on purpose: what each means, and the built-in error that it also is."""
    lines = ["| error | a kind of | raised when |", "| --- | --- | --- |"]
    for node in _tree("edge_imdb.errors").body:
        if isinstance(node, ast.ClassDef):
            bases = ", ".join(f"`{ast.unparse(base)}`" for base in node.bases)
            meaning = _single_backticks(" ".join((ast.get_docstring(node) or "").split()))
            lines.append(f"| `{node.name}` | {bases} | {meaning} |")
    return "\n".join(lines)


def _tree(module: str) -> ast.Module:
    top = next((prefix for prefix in FOLDERS if module == prefix or module.startswith(f"{prefix}.")), None)
    path = ROOT / (FOLDERS[top] + module[len(top) :].replace(".", "/") if top else module.replace(".", "/"))
    source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    return ast.parse(source.read_text(encoding="utf-8"))


def _find(module: str, name: str) -> ast.ClassDef | ast.FunctionDef:
    for node in _tree(module).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name and not _is_overload(node):
            return node
    raise KeyError(f"{module} defines no {name}")


def _is_public(node: ast.stmt) -> bool:
    return (
        isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_") and not _is_overload(node)
    )


def _is_overload(node: ast.ClassDef | ast.FunctionDef) -> bool:
    return "overload" in _decorators(node)


def _decorators(node: ast.ClassDef | ast.FunctionDef) -> set[str]:
    return {ast.unparse(decorator).partition("(")[0].rpartition(".")[2] for decorator in node.decorator_list}


def _class(module: str, node: ast.ClassDef, level: int) -> str:
    methods = [each for each in node.body if isinstance(each, ast.FunctionDef) and not _is_overload(each)]
    start = next((each for each in methods if each.name == "__init__"), None)
    parts = [f"{'#' * level} `{node.name}`"]
    if start is not None:
        parts.append(_code(_signature(start, node.name)))
    parts.append(_prose(ast.get_docstring(node)))
    if "dataclass" in _decorators(node) and (fields := _fields(node)):
        parts.append(fields)
    # A call comes first, then the other methods in the order of the source.
    for method in sorted(methods, key=lambda each: each.name != "__call__"):
        if method.name == "__call__" or (not method.name.startswith("_") and ast.get_docstring(method)):
            parts.append(_function(method, f"{node.name}.{method.name}", level + 1))
    for base in node.bases:
        inherited = ast.unparse(base)
        if inherited == "Pipeline":
            parts.append(f"`{node.name}` also has the methods of [`Pipeline`](#pipeline).")
    return "\n\n".join(filter(None, parts))


def _function(node: ast.FunctionDef, name: str, level: int) -> str:
    if "property" in _decorators(node):
        kind = f": {ast.unparse(node.returns)}" if node.returns else ""
        return f"{'#' * level} `{name}`\n\n{_code(f'{name}{kind}')}\n\n{_prose(ast.get_docstring(node))}"
    shown = name.removesuffix(".__call__")
    heading = f"Calling a `{shown}`" if shown != name else f"`{name}`"
    return f"{'#' * level} {heading}\n\n{_code(_signature(node, shown))}\n\n{_prose(ast.get_docstring(node))}"


def _signature(node: ast.FunctionDef, name: str) -> str:
    """The signature on one line or, where that is too long, with one argument per line."""
    arguments = node.args
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args = arguments.args[1:]
    returns = "" if node.returns is None or node.name == "__init__" else f" -> {ast.unparse(node.returns)}"
    line = f"{name}({ast.unparse(arguments)}){returns}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in _arguments(arguments)) + f"){returns}"


def _arguments(arguments: ast.arguments) -> list[str]:
    def shown(argument: ast.arg, default: ast.expr | None) -> str:
        kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
        return f"{argument.arg}{kind}" + (f" = {ast.unparse(default)}" if default else "")

    missing = len(arguments.args) - len(arguments.defaults)
    defaults: list[ast.expr | None] = [None] * missing + list(arguments.defaults)
    parts = [shown(argument, default) for argument, default in zip(arguments.args, defaults, strict=True)]
    if arguments.vararg:
        parts.append(f"*{shown(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        parts.append("*")
    parts += [shown(a, default) for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return parts + ([f"**{shown(arguments.kwarg, None)}"] if arguments.kwarg else [])


def _fields(node: ast.ClassDef) -> str:
    """A table of a dataclass's fields: their types, their defaults and, if they are options, their help texts."""
    lines = []
    for each in node.body:
        if not isinstance(each, ast.AnnAssign) or not isinstance(each.target, ast.Name):
            continue
        default, text = each.value, ""
        if isinstance(default, ast.Call):
            strings = [part.value for part in default.args[1:2] if isinstance(part, ast.Constant)]
            text = " ".join(str(strings[0]).split()) if strings else ""
            default = default.args[0] if default.args else None
        shown = "" if default is None else f"`{ast.unparse(default)}`"
        kind = ast.unparse(each.annotation).replace("|", "\\|")
        lines.append(f"| `{each.target.id}` | `{kind}` | {shown} | {text} |")
    return "\n".join(["| field | type | default | |", "| --- | --- | --- | --- |", *lines]) if lines else ""


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _prose(docstring: str | None) -> str:
    """The Markdown of a docstring: code in single backticks, arguments as a list, examples as code."""
    if not docstring:
        return ""
    out: list[str] = []
    listing, example = False, False
    for line in inspect.cleandoc(docstring).splitlines():
        if line.startswith(">>>") and not example:
            out.append("```python")
            example = True
        elif example and not line.strip():
            out.append("```")
            example = False
        if example:
            out.append(line)
            continue
        if re.fullmatch(r"(Arguments|Raises|Returns|Attributes|Yields|Example|Examples):", line):
            listing = True
            out += [line, ""]
            continue
        if listing and (match := re.fullmatch(r"    (\*{0,2}[\w, *]+): (.*)", line)):
            names = ", ".join(f"`{name.strip()}`" for name in match[1].split(","))
            line = f"- {names}: {match[2]}"
        elif listing and line.startswith("        "):
            line = "  " + line.strip()
        elif line and not line.startswith(" "):
            listing = False
        out.append(_single_backticks(line))
    if example:
        out.append("```")
    return "\n".join(out)


def _single_backticks(text: str) -> str:
    return re.sub(r"``([^`]+)``", r"`\1`", text)
