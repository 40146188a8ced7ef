"""Tokens that are not on this machine: read by ranges, straight from where the objects of the build are.

PEDIGREE_TOKENS names a JSON file that maps each file of data/tokenize to its URL:

    {"stories/manifest.json": "s3://bucket/files/md5/12/34…", "stories/tokens-00000.bin": …, …}

`python -m infra.store.streaming` writes it; this stage knows no DVC. Files that are here are read here.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import fsspec
import numpy as np
from numpy.typing import NDArray

from stages.documents import MANIFEST, source_folders
from stages.order import Order
from stages.params import Refusal, source_names
from stages.pretrain.ranges import Ranges
from stages.settings import settings
from stages.tokens import HEAD_BYTES, Shard, TokenStream, head_dtype

TOKENS = Path("data/tokenize")


class RangedShard:
    """A shard in an object store."""

    def __init__(self, url: str, dtype: np.dtype[np.integer], size: int, ranges: Ranges) -> None:
        self.url, self.dtype, self.ranges = url, dtype, ranges
        self._tokens = size // dtype.itemsize

    def __len__(self) -> int:
        return self._tokens

    def __getitem__(self, part: slice) -> NDArray[np.integer]:
        return np.frombuffer(self.ranges.read(self.url, *self._bytes(part)), self.dtype)

    def expect(self, part: slice) -> None:
        """Begin to fetch what will be read soon."""
        self.ranges.expect(self.url, *self._bytes(part))

    def _bytes(self, part: slice) -> tuple[int, int]:
        return part.start * self.dtype.itemsize, part.stop * self.dtype.itemsize


def tokens_folder(scratch: Path) -> Path:
    """The folder with the manifests of all sources' token shards: data/tokenize, or what is fetched into `scratch`.

    Raises:
        Refusal: if PEDIGREE_TOKENS doesn't name a map of them.
    """
    if not settings().tokens:
        return TOKENS
    places, folder = read_map(settings().tokens), scratch / "tokens"
    for source in source_names():
        path = folder / source / MANIFEST
        path.parent.mkdir(parents=True, exist_ok=True)
        with fsspec.open(_place(places, f"{source}/{MANIFEST}"), "rb") as file:
            path.write_bytes(file.read())
    return folder


def read_map(url: str) -> dict[str, str]:
    """The map of files to URLs at `url`, a path or a URL.

    Raises:
        Refusal: if there is none.
    """
    try:
        with fsspec.open(url, "rb") as file:
            places = json.loads(file.read())
        if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
            raise ValueError("it is no mapping of names to URLs")
    except (OSError, ValueError) as error:
        raise Refusal(
            f"environment variable PEDIGREE_TOKENS: {url} can't be read as a map ({type(error).__name__}); make it "
            f"with `python -m infra.store.streaming`"
        ) from None
    return places


def open_streams(folder: Path) -> dict[str, TokenStream]:
    """The token stream of each source, whose manifest is in `folder`.

    Raises:
        Refusal: if a shard is neither here nor in the map.
    """
    folders = source_folders(folder)
    if not settings().tokens:
        return {source: TokenStream.open(path) for source, path in folders.items()}
    places, ranges = read_map(settings().tokens), Ranges()
    return {source: TokenStream.of(_shards(source, path, places, ranges)) for source, path in folders.items()}


def _shards(source: str, folder: Path, places: Mapping[str, str], ranges: Ranges) -> Sequence[Shard]:
    entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["shards"]
    sizes = {entry["path"]: entry["bytes"] for entry in entries if entry["path"].endswith(".bin")}
    dtype = None
    shards: list[Shard] = []
    for name, size in sizes.items():
        if dtype is None:  # all shards of a source have the type of the first
            index = _place(places, f"{source}/{name.removesuffix('.bin')}.idx")
            dtype = head_dtype(ranges.read(index, 0, HEAD_BYTES), index)
        shards.append(RangedShard(_place(places, f"{source}/{name}"), dtype, size, ranges))
    return shards


def expect_samples(streams: Mapping[str, TokenStream], order: Order, numbers: Sequence[int], length: int) -> None:
    """Begin to fetch the samples with these global numbers, as far as they aren't on this machine."""
    for number in numbers:
        sample = order.sample(number)
        begin = sample.window * length
        for shard, part in streams[sample.source].parts(begin, begin + length + 1):
            if isinstance(shard, RangedShard):
                shard.expect(part)


def _place(places: Mapping[str, str], name: str) -> str:
    if name not in places:
        raise Refusal(f"environment variable PEDIGREE_TOKENS: {settings().tokens} has no {name}; make the map again")
    return places[name]
