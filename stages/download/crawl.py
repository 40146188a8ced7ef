"""A snapshot of Common Crawl: a sample of its WARC or WET files, drawn by the hash of their paths.

The layout is that of https://commoncrawl.org/get-started: crawl-data/SNAPSHOT/warc.paths.gz lists the files of a
snapshot, relative to the base.
"""

import gzip
import zlib
from hashlib import blake2b
from pathlib import Path

from stages.download.files import ask_files, by_name, fill_files
from stages.download.params import CrawlParams
from stages.download.scratch import fetch
from stages.locked import Locked
from stages.params import Refusal
from stages.remote import Pace, pace_of

LISTING_BYTES = 1 << 28  # a snapshot's is 20 MB


def ask(params: CrawlParams, source: str, before: Locked | None) -> Locked:
    """The files of the sample as they are now.

    Raises:
        Refusal: if the listing or one of them can't be had.
    """
    pace = pace_of(source)
    files = ask_files(_urls(params, source, pace), source, before, pace, params.by_reference)
    return Locked(kind="crawl", files=tuple(files))


def fill(params: CrawlParams, source: str, locked: Locked, folder: Path) -> None:
    """Put the locked files into `folder`, unless they are taken by reference.

    Raises:
        Refusal: if the sample is another than was locked, or a file has other bytes.
    """
    pace = pace_of(source)
    fill_files(_urls(params, source, pace), source, locked, folder, pace, params.by_reference)


def sample(paths: list[str], params: CrawlParams) -> list[str]:
    """Those of `paths` that are drawn; whoever asks for more with the same seed gets these, too."""
    drawn = sorted((_number(path, params.seed), path) for path in set(paths))
    if params.count is not None:
        drawn = drawn[: params.count]
    if params.fraction is not None:
        drawn = [(number, path) for number, path in drawn if number < params.fraction * 2**64]
    return sorted(path for _, path in drawn)


def _number(path: str, seed: int) -> int:
    """A number below 2^64, as if drawn for `path`."""
    return int.from_bytes(blake2b(f"{seed}\0{path}".encode(), digest_size=8).digest(), "big")


def _urls(params: CrawlParams, source: str, pace: Pace) -> dict[str, str]:
    """File name -> URL of the sample."""
    listing = f"{params.base.rstrip('/')}/crawl-data/{params.snapshot}/{params.files}.paths.gz"
    fetched = fetch(listing, source, pace)
    try:
        with gzip.open(fetched) as file:
            text = file.read(LISTING_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Refusal(f"{listing} is no gzip ({error}); correct base and snapshot in params.yaml") from None
    if len(text) > LISTING_BYTES:
        raise Refusal(f"{listing} unpacks to more than {LISTING_BYTES} bytes, which no listing of a snapshot does")
    paths = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    if not (drawn := sample(paths, params)):
        raise Refusal(f"{listing}: none of its {len(paths)} files is drawn; raise count or fraction in params.yaml")
    return by_name([f"{params.base.rstrip('/')}/{path}" for path in drawn])
