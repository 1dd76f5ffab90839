"""Tools of `bench/agents.py`: a calculator for systems of linear equations, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction


def solve(a: list[list[int]], b: list[int]) -> str:
    """Solve the linear equation a x = b.

    Args:
        a: the matrix, row by row.
        b: the right-hand side, one number for each row.
    """
    size = len(a)
    if len(b) != size or any(len(row) != size for row in a):
        raise ValueError(f"a must be {size} x {size}, and b must have {size} numbers")
    rows = [[Fraction(n) for n in (*row, right)] for row, right in zip(a, b, strict=True)]
    for i in range(size):
        pivot = next((r for r in range(i, size) if rows[r][i]), None)
        if pivot is None:
            raise ValueError("the matrix has no inverse")
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [n / rows[i][i] for n in rows[i]]
        for r in range(size):
            if r != i:
                rows[r] = [x - rows[r][i] * y for x, y in zip(rows[r], rows[i], strict=True)]
    return _column([str(row[-1]) for row in rows])


def _column(numbers: list[str]) -> str:
    """A column as the questions write it: right-aligned, one number a line."""
    width = max(map(len, numbers))
    lines = [f"[{number:>{width}}]" for number in numbers]
    return "x = [" + "\n ".join(lines) + "]"
