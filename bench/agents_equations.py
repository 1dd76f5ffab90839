"""Tool of `bench/agents.py`: linear equations, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction


def solve(matrix: list[list[int]], vector: list[int]) -> str:
    """Solve a system of linear equations.

    Args:
        matrix: the coefficients, row by row.
        vector: the right side.
    """
    size = len(vector)
    if len(matrix) != size or any(len(row) != size for row in matrix):
        raise ValueError(f"matrix must have {size} rows of {size} numbers, as vector has {size}")
    rows = [[Fraction(n) for n in (*row, b)] for row, b in zip(matrix, vector, strict=True)]
    for i in range(size):
        pivot = next((r for r in range(i, size) if rows[r][i]), None)
        if pivot is None:
            raise ValueError("the equations have no single solution")
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for r in range(size):
            if r != i:
                rows[r] = [x - rows[r][i] * y for x, y in zip(rows[r], rows[i], strict=True)]
    texts = [str(row[size]) for row in rows]
    width = max(map(len, texts))
    return "[" + "\n ".join(f"[{text:>{width}}]" for text in texts) + "]"
