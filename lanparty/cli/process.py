"""What this process asks of the C library and of Python before it begins its work.

Owns: the memory allocator's thresholds, the garbage collector's. Must not know: what the programs do.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Final

__all__ = ["prepare"]

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Parameters of glibc's mallopt (malloc.h)."""

_KEEP: Final = 64 << 20
"""Bytes of freed heap that stay with the process. Each batch makes and frees some hundred kilobytes: given back to the
kernel each time, every page of them is faulted in anew. Measured: 2.6 against 0.6 seconds of system time for each
gigabyte at client and gateway. It is a limit, not a size: an idle program has not more than before."""

_MMAP_ABOVE: Final = 32 << 20
"""Bytes above which an allocation is mapped by itself: a 64 KiB super-frame is not."""

_GARBAGE_AFTER: Final = 50_000
"""Objects that must survive before Python looks for cycles (700 by default). A batch makes a thousand objects without
any; each look costs 1 to 10 ms where a relay has many members, which a game would feel as jitter."""


def prepare() -> None:
    """Set the thresholds; where the C library has none, nothing happens."""
    gc.set_threshold(_GARBAGE_AFTER, 20, 100)
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            library.mallopt(_M_TRIM_THRESHOLD, _KEEP)
            library.mallopt(_M_MMAP_THRESHOLD, _MMAP_ABOVE)
