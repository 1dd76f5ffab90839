"""Circles of imports among the modules of `rung/`, type-only imports counted.

python -m tests.circles          # what `make lint` runs; prints each circle, exit status 1 if any
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable


def circles(modules: Iterable[str], imported_by: Callable[[str], Iterable[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan's algorithm), each sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in imported_by(module):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            at = stack.index(module)
            component = sorted(stack[at:])
            del stack[at:]
            if len(component) > 1:
                found.append(component)

    for module in modules:
        if module not in index:
            visit(module)
    return sorted(found)


def of_package(package: str = "rung") -> list[list[str]]:
    """The circles of a package that can be imported; imports inside functions count too."""
    import grimp

    graph = grimp.build_graph(package, exclude_type_checking_imports=False, cache_dir=None)
    return circles(sorted(graph.modules), graph.find_modules_directly_imported_by)


if __name__ == "__main__":
    sys.setrecursionlimit(10_000)
    here = of_package()
    for circle in here:
        print("these modules import each other in a circle:", ", ".join(circle))
    sys.exit(bool(here))
