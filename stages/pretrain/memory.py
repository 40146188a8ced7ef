"""What the C library does with the memory that a training gives back: it keeps it for the next step."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 1 << 30


def keep() -> None:
    """Take memory from the kernel once, not in each step again, where the C library is glibc.

    By default every tensor of some 100 KB is unmapped when it is freed, and the next one's pages are cleared by the
    kernel at their first touch: 10% of a step of the default model. The values don't depend on it.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option:
        set_option(M_MMAP_THRESHOLD, KEPT)
        set_option(M_TRIM_THRESHOLD, KEPT)
