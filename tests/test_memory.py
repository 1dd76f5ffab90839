"""What a training frees stays with the process until it ends, but where it divides a base."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest
import torch

from rung.bases.mapped import page_out
from rung.memory import keep_freed
from tests.conftest import ROOT

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


@pytest.mark.skipif(not glibc, reason="another C library has its own ways")
def test_blocks_between_ones_that_stay_are_returned():
    """Blocks of 8 MB, with small ones after each; in a process of its own, as it holds for good."""
    said = """if True:
        import psutil, torch
        from rung.memory import keep_freed, return_freed
        return_freed()
        def resident(): return psutil.Process().memory_info().rss
        with keep_freed():
            before, small = resident(), []
            for _ in range(16):
                blocks = [torch.ones(1 << 21) for _ in range(2)]
                small += [torch.ones(1 << 10) for _ in range(64)]
                del blocks
            print(resident() - before)
    """
    grown = int(subprocess.run([sys.executable, "-c", said], capture_output=True, check=True).stdout)
    assert grown < 16e6


@pytest.mark.skipif(not glibc, reason="another C library has its own ways")
def test_what_is_freed_is_returned_for_a_while_alone():
    """In a process of its own, since a block that lies free already is used again without a fault."""
    said = """if True:
        from rung.memory import keep_freed, returning_freed
        from tests.test_memory import faults
        with returning_freed():
            with keep_freed():
                print(faults())
            with returning_freed():
                pass
            print(faults())
        with keep_freed():
            print(min(faults() for _ in range(8)))
    """
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, check=True, cwd=ROOT)
    inside, still, after = map(int, done.stdout.split())
    assert inside > 2000 and still > 2000 and after < 100  # of 4,096 pages


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_mark_is_of_this_process_and_not_of_the_one_that_started_it():
    """`ru_maxrss` is not: a child shares its parent's memory until it runs a program, and its mark."""
    torch.ones(100_000_000).sum()  # 400 MB
    own = "from rung.memory import high_water; print(high_water())"
    said = subprocess.run([sys.executable, "-c", own], capture_output=True, text=True, check=True)
    assert 1e6 < int(said.stdout) < 200e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_pages_of_a_mapped_weight_are_given_back_and_read_again(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(torch.arange(30_000_000, dtype=torch.float32).numpy().tobytes())
    weight = torch.from_file(str(file), size=30_000_000, dtype=torch.float32)
    total, full = float(weight.sum()), resident()
    page_out(weight)
    page_out(weight[:7])  # less than a page
    assert resident() < full - 80e6
    assert float(weight.sum()) == total
