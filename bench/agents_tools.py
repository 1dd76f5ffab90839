"""Tool of `bench/agents.py`: the determinant of a matrix, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction


def determinant(matrix: list[list[float]]) -> str:
    """Calculate the determinant of a matrix, to 2 decimals.

    Args:
        matrix: the matrix, row by row.
    """
    size = len(matrix)
    if any(len(row) != size for row in matrix):
        raise ValueError(f"matrix must have {size} numbers in each of its {size} rows")
    rows, found = [[Fraction(str(n)) for n in row] for row in matrix], Fraction(1)
    for i in range(size):
        pivot = next((r for r in range(i, size) if rows[r][i]), None)
        if pivot is None:
            return "0.00"
        if pivot != i:
            rows[i], rows[pivot], found = rows[pivot], rows[i], -found
        found *= rows[i][i]
        for r in range(i + 1, size):
            share = rows[r][i] / rows[i][i]
            rows[r] = [x - share * y for x, y in zip(rows[r], rows[i], strict=True)]
    return f"{float(found):.2f}"
