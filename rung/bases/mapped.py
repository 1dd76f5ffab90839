"""Pages of mapped files that hold weights: given back while nothing reads them."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PAGE_OUT = 21  # madvise's MADV_PAGEOUT (madvise(2)), which Python's mmap does not name


def page_out(weight: Tensor) -> None:
    """Let Linux take back the pages of a mapped file that hold a weight on the CPU.

    A hint, not needed for being right: what is read again comes from the file.
    """
    if sys.platform != "linux" or weight.device.type != "cpu":
        return
    begin = -(-weight.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = weight.data_ptr() + weight.numel() * weight.element_size()
    length = end // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), PAGE_OUT)
