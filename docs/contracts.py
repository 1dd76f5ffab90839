"""Print the public contract of classes and functions from their source, for docs/architecture.md.

A page names what it shows, and what stands between the marks is rewritten by docs/generate.py:

    <!-- contract: rung.train.job.tune rung.forward.bank.Bank -->
    <!-- /contract -->

Files of a folder, each with the first line of its docstring, are printed by

    <!-- files: rung/engine rung/engine/queues -->
    <!-- /files -->

Nothing is imported: signatures and the first lines of docstrings are read from the syntax.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"(<!-- contract: ([\w. \n]+?) -->\n).*?(<!-- /contract -->)", re.DOTALL)
FILES = re.compile(r"(<!-- files: ([\w./ \n]+?) -->\n).*?(<!-- /files -->)", re.DOTALL)
WIDTH = 104  # columns of a line, as in the code


def filled(text: str) -> str:
    """The page with every contract printed anew.

    Raises:
        ValueError: for a name that no module of the package defines.
    """
    text = FILES.sub(lambda m: f"{m[1]}\n{table(m[2].split())}\n{m[3]}", text)
    return MARK.sub(lambda m: f"{m[1]}{block(m[2].split())}{m[3]}", text)


def table(folders: list[str]) -> str:
    """A table of the folders' modules and what each says of itself."""
    rows = ["| file | what it is |", "|---|---|"]
    for folder in folders:
        for path in sorted((ROOT / folder).glob("*.py")):
            said = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition(
                "\n\n"
            )
            if path.name != "__init__.py" and said[0]:
                first = " ".join(said[0].split()).replace("|", "\\|")
                rows.append(f"| `{path.relative_to(ROOT / 'rung')}` | {first} |")
    return "\n".join(rows) + "\n"


def block(names: list[str]) -> str:
    """A code block with the contracts of those names."""
    parts = ["\n".join(lines(name)) for name in names]
    return "```python\n" + "\n".join(parts) + "\n```\n"


def lines(name: str) -> Iterator[str]:
    """One name: a function's signature, or a class with its fields and public methods."""
    node = find(name)
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(b) for b in node.bases)
        yield _told(f"class {node.name}({bases})" if bases else f"class {node.name}", node)
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and not _private(ast.unparse(item.target)):
                yield f"    .{ast.unparse(item.target)}: {ast.unparse(item.annotation)}"
            if isinstance(item, ast.FunctionDef) and (
                item.name == "__init__" or not _private(item.name)
            ):
                yield from _method(node, item)
    else:
        yield _told(signature(node), node)


def _method(owner: ast.ClassDef, node: ast.FunctionDef) -> Iterator[str]:
    kinds = {ast.unparse(d) for d in node.decorator_list}
    if node.name == "__init__":
        yield f"    {owner.name}({_arguments(node, drop=1)})"
    elif kinds & {"property", "cached_property", "functools.cached_property"}:
        yield _told(f"    .{node.name}: {_returns(node)}", node)
    else:
        bound = 0 if "staticmethod" in kinds else 1
        yield _told(f"    .{signature(node, bound)}", node)


def signature(node: ast.FunctionDef, drop: int = 0) -> str:
    """`name(arguments) -> result`, without the first `drop` arguments."""
    returns = _returns(node)
    return f"{node.name}({_arguments(node, drop)})" + (f" -> {returns}" if returns else "")


def _returns(node: ast.FunctionDef) -> str:
    return ast.unparse(node.returns) if node.returns else ""


def _arguments(node: ast.FunctionDef, drop: int = 0) -> str:
    spec = node.args
    plain = [*spec.posonlyargs, *spec.args]
    defaults = [None] * (len(plain) - len(spec.defaults)) + [ast.unparse(d) for d in spec.defaults]
    found = [_argument(a, d) for a, d in list(zip(plain, defaults, strict=True))[drop:]]
    if spec.vararg:
        found.append(f"*{_argument(spec.vararg, None)}")
    elif spec.kwonlyargs:
        found.append("*")
    for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
        found.append(_argument(a, ast.unparse(d) if d is not None else None))
    if spec.kwarg:
        found.append(f"**{_argument(spec.kwarg, None)}")
    return ", ".join(found)


def _argument(node: ast.arg, default: str | None) -> str:
    text = f"{node.arg}: {ast.unparse(node.annotation)}" if node.annotation else node.arg
    if default is None:
        return text
    return f"{text} = {default}" if node.annotation else f"{text}={default}"


def _told(text: str, node: ast.FunctionDef | ast.ClassDef) -> str:
    """The text with the docstring's first line behind it, on the next line where it would be long."""
    said = (ast.get_docstring(node) or "").partition("\n")[0]
    if not said:
        return text
    if len(text) + len(said) + 4 <= WIDTH:
        return f"{text}  # {said}"
    indent = " " * (len(text) - len(text.lstrip()) + 4)
    return f"{text}\n{indent}# {said}"


def _private(name: str) -> bool:
    return name.startswith("_")


def find(name: str) -> ast.FunctionDef | ast.ClassDef:
    """The definition of a dotted name. Raises ValueError where there is none."""
    module, _, inner = name.rpartition(".")
    for path in (
        ROOT / (module.replace(".", "/") + ".py"),
        ROOT / module.replace(".", "/") / "__init__.py",
    ):
        if path.exists():
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == inner:
                    return node
    raise ValueError(f"{name} is not defined: mend the mark in the page")
