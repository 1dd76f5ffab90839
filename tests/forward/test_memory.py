"""What a training frees stays with the process until it ends."""

from __future__ import annotations

import ctypes
import resource
import sys

import pytest
import torch

from rung.forward.memory import keep_freed

glibc = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")


def faults(size: int = 1 << 22) -> int:
    """Page faults of filling 16 MB that were just freed."""
    torch.zeros(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not glibc, reason="another C library has its own ways")
def test_freed_memory_is_used_again_without_page_faults():
    with keep_freed():
        # The first few may not fit into what was freed, as aligned blocks ask for a little more.
        assert min(faults() for _ in range(8)) < 100  # of 4,096 pages
    before = resident()
    with keep_freed():
        blocks = [torch.ones(1 << 20) for _ in range(64)]
        del blocks
        held = resident()
        with keep_freed():
            pass  # a validation within a training
        assert resident() - before > 128e6
    assert held - before > 128e6
    assert resident() - before < 64e6


def resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss
