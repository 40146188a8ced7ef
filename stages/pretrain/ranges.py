"""Byte ranges of objects in an object store: asked for before they are needed, kept in memory up to a limit.

Which ranges a training will read is known, as the order of its samples is: so the read-ahead fetches these and no byte
more, where a cache of blocks would fetch a block for each sample, of which no other one follows.
"""

import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from fsspec.core import url_to_fs

THREADS = 16
KEPT_BYTES = 64 << 20
TRIES = 7  # with a pause after each that doubles, a minute in all
PAUSE_SECONDS = 0.5

Range = tuple[str, int, int]  # URL, first byte, the byte after the last


class StoreAway(OSError):
    """The store has not answered for a minute."""


class Ranges:
    """Ranges by threads: `expect` those that will be read, then `read` them."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self.kept_bytes = kept_bytes
        self._pool = ThreadPoolExecutor(THREADS, "ranges")
        self._known: OrderedDict[Range, Future[bytes]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def expect(self, url: str, begin: int, end: int) -> None:
        """Begin to fetch bytes [begin, end) of `url`."""
        self._future((url, begin, end))

    def read(self, url: str, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of `url`.

        Raises:
            StoreAway: if the store doesn't answer, for long.
            Refusal: if access is denied.
        """
        return self._future((url, begin, end)).result()

    def _future(self, wanted: Range) -> Future[bytes]:
        """What was asked for, or is asked for now; the ranges that were used least recently are forgotten."""
        with self._lock:
            future = self._known.pop(wanted, None)
            if future is None or (future.done() and future.exception()):
                future = self._pool.submit(_fetch, *wanted)
                self._bytes += wanted[2] - wanted[1]
            self._known[wanted] = future
            while self._bytes > self.kept_bytes and len(self._known) > 1:
                (_, begin, end), _ = self._known.popitem(last=False)
                self._bytes -= end - begin
            return future


def _fetch(url: str, begin: int, end: int) -> bytes:
    from stages.lease import Unreachable, reaching  # its client takes half a second to load

    reason = ""
    for number in range(TRIES):
        try:
            with reaching(url):
                store, path = url_to_fs(url)
                content: bytes = store.cat_file(path, start=begin, end=end)
            if len(content) == end - begin:
                return content
            reason = f"{url}: {len(content)} bytes came instead of {end - begin}"
        except Unreachable as error:
            reason = str(error)
        time.sleep(PAUSE_SECONDS * 2**number)
    raise StoreAway(reason)
