# SPDX-License-Identifier: Apache-2.0
"""Keep freed chunks in the process, so that each new one does not page-fault its memory in again.

Measured: without this, three of five sending processes spent 2.2-2.6 CPU s/GB instead of 1.0-1.15
(docs/adr/0003). glibc only; elsewhere nothing happens.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8  # malloc.h


def keep_freed_chunks() -> bool:
    """Set malloc's thresholds (mallopt(3)); whether this C library has them."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = (
        (_M_MMAP_THRESHOLD, 32 * 2**20),
        (_M_TRIM_THRESHOLD, 512 * 2**20),
        (_M_TOP_PAD, 16 * 2**20),
        (_M_ARENA_MAX, 1),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)
