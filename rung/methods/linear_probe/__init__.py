"""Linear probe (arXiv 1610.01644): labels from a linear classifier on hidden states of the frozen base.

rung tune NAME --method linear_probe --data ...
"""

from rung.methods.linear_probe.method import Method

__all__ = ["Method"]
