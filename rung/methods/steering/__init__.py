"""Steering (representation engineering, arXiv 2310.01405): a direction added to layers' outputs.

rung tune NAME --method steering --data ...
"""

from rung.methods.steering.method import Method

__all__ = ["Method"]
