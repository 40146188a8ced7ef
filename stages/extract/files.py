"""Find the records in downloaded files: plain, compressed, or members of zip and tar archives."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple, cast

import zstandard

from stages.extract.language import PROGRAMMING_LANGUAGES
from stages.extract.params import ExtractParams
from stages.extract.readers import READERS
from stages.extract.records import Found, Unreadable, guarded, unreadable
from stages.extract.references import Downloaded, File
from stages.globs import is_among, matches
from stages.params import Refusal

ENDINGS: dict[str, tuple[str, ...]] = {
    "jsonl": ("jsonl", "ndjson"),
    "parquet": ("parquet",),
    "text": ("txt", "text"),
    "markdown": ("md", "markdown"),
    "rst": ("rst",),
    "html": ("html", "htm", "xhtml"),
    "warc": ("warc",),
    "mediawiki": ("xml",),
    "jats": ("xml", "nxml"),
    "code": tuple(PROGRAMMING_LANGUAGES),
}
COMPRESSIONS = ("gz", "bz2", "xz", "zst")
ZIPS = (".zip", ".whl")
TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")

# A window as `zstd --long=31` makes it; corpora are often packed so.
ZSTD_WINDOW_BYTES = 1 << 31
# Parquet is read from its end: a packed member is held whole.
MAX_PACKED_PARQUET_BYTES = 1 << 30


# Name of the member, if there is one, and what opens its bytes as they lie there.
Stream = tuple[str | None, Callable[[], IO[bytes]]]


class Piece(NamedTuple):
    """What is read in one go: a file, or one member of a zip archive."""

    file: str
    member: str | None
    size: int  # bytes as the archive gives them, or the file system


def find_pieces(folder: Path, params: ExtractParams) -> list[Piece]:
    """The pieces of a downloaded source that `params.members` or the format asks for, in order of name.

    Raises:
        Refusal: if the folder is unfinished, nothing is asked for, or a glob of members matches nothing.
    """
    pieces: list[Piece] = []
    downloaded = Downloaded(folder)
    names = sorted(downloaded.sizes)
    for name in names:
        pieces += pieces_of(downloaded.file(name), downloaded.sizes[name], params)
    if not pieces:
        raise Refusal(
            f"{folder}: no file of format {params.format} in {', '.join(names[:5])}; correct format or members"
        )
    if not any(name.lower().endswith(TARS) for name in names):  # a tar tells its members only when read
        refuse_unused(params.members, [piece.member or piece.file for piece in pieces], folder)
    return pieces


def pieces_of(file: File, size: int, params: ExtractParams) -> list[Piece]:
    """The pieces of `file`, which has `size` bytes."""
    name = file.name
    whole = Piece(name, None, size)
    if name.lower().endswith(ZIPS):
        try:
            with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
                sizes = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
        except (zipfile.BadZipFile, ValueError, EOFError):
            return [whole]  # reading it will say what is wrong
        return [Piece(name, member, sizes[member]) for member in sorted(sizes) if is_wanted_member(member, params)]
    return [whole] if name.lower().endswith(TARS) or is_wanted(name, params) else []


def refuse_unused(members: tuple[str, ...], names: list[str], folder: Path) -> None:
    """Refuse a glob that matches none of `names`: it is misspelt, or the source has changed."""
    for glob in members:
        if not glob.startswith("!") and not any(matches(glob, name) for name in names):
            raise Refusal(f"{folder}: members: {glob} matches nothing in there; correct it in params.yaml")


def is_wanted(name: str, params: ExtractParams) -> bool:
    """If the parameters ask for the file or member `name`."""
    return is_among(name, params.members)


def is_wanted_member(name: str, params: ExtractParams) -> bool:
    """If the parameters ask for the member `name` of an archive: without a glob, by the ending of the format.

    A file of its own was asked for by its URL, whatever its ending.
    """
    if not is_wanted(name, params):
        return False
    if any(not glob.startswith("!") for glob in params.members):
        return True
    return format_of(name) is not None if params.format == "auto" else ending(name) in ENDINGS[params.format]


def ending(name: str) -> str:
    """The ending of a file's name in lower case, without that of its compression: `jsonl` of `a.jsonl.gz`."""
    parts = name.lower().rpartition("/")[2].split(".")
    if len(parts) > 2 and parts[-1] in COMPRESSIONS:
        parts.pop()
    return parts[-1] if len(parts) > 1 else ""


def format_of(name: str) -> str | None:
    """The format that a name's ending tells; None if it doesn't. XML has several, so it must be named."""
    found = ending(name)
    if found in ("xml", ""):
        return None
    return next((format_ for format_, endings in ENDINGS.items() if found in endings), None)


def group(pieces: list[Piece], shard_bytes: int) -> list[list[Piece]]:
    """`pieces` in their order, grouped so that a group ends with the piece that fills `shard_bytes`."""
    groups: list[list[Piece]] = [[]]
    size = 0
    for piece in pieces:
        if size >= shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.size
    return groups


def read_pieces(folder: Path, pieces: list[Piece], params: ExtractParams) -> Iterator[tuple[str, Found]]:
    """(origin, what was found there) of every record in `pieces`, in order. Bad input doesn't raise."""
    downloaded = Downloaded(folder)
    for file, of_file in groupby(pieces, key=lambda piece: piece.file):
        streams = _open(downloaded.file(file), [piece.member for piece in of_file], params)
        for member, found in _read_streams(streams, file, params):
            origin = file if member is None else f"{file}!{member}"
            yield origin if found.number is None else f"{origin}#{found.number}", downloaded.told(found, params.license)


def _read_streams(streams: Iterator[Stream], file: str, params: ExtractParams) -> Iterator[tuple[str | None, Found]]:
    """(member, what was found there); if the archive itself breaks, that is found, too."""
    try:
        for member, opener in streams:
            for found in guarded(read_stream(opener, member or file, params)):
                yield member, found
    except Exception as error:
        yield None, unreadable(error, None)


def _open(path: File, members: list[str | None], params: ExtractParams) -> Iterator[Stream]:
    """The one stream of a plain file, or those of an archive's members."""
    name = path.name.lower()
    if name.endswith(ZIPS):
        yield from _zip_members(path, members)
    elif name.endswith(TARS):
        yield from _tar_members(path, params)
    else:
        yield None, lambda: path.open("rb")


def _zip_members(path: File, members: list[str | None]) -> Iterator[Stream]:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for name in members:
            yield name, partial(archive.open, name or "")


def _tar_members(path: File, params: ExtractParams) -> Iterator[Stream]:
    """The wanted files in a tar, in its own order: it can't be entered in the middle."""
    names = set()
    with path.open("rb") as file:
        compression = path.name.lower().rpartition(".")[2].replace("tgz", "gz")
        # tarfile would take the end of truncated gzip for the end of the archive.
        unpacked = decompressed(file, compression) if compression in COMPRESSIONS else file
        with tarfile.open(fileobj=unpacked, mode="r|") as archive:
            for entry in archive:
                if entry.isreg() and is_wanted_member(entry.name, params):
                    yield entry.name, partial(_open_tar_member, archive, entry, entry.name in names)
                    names.add(entry.name)


def _open_tar_member(archive: tarfile.TarFile, entry: tarfile.TarInfo, again: bool) -> IO[bytes]:
    if again:  # two documents would have one id
        raise ValueError("an earlier member has the same name")
    member = archive.extractfile(entry)
    assert member is not None
    return member


def read_stream(opener: Callable[[], IO[bytes]], name: str, params: ExtractParams) -> Iterator[Found]:
    """What is in the file or member `name`, whose packed bytes `opener` opens."""
    name = name.rpartition("/")[2]
    format_ = params.format if params.format != "auto" else format_of(name)
    if format_ is None:
        yield Unreadable("unknown_format", f"the ending of {name} tells no format")
        return
    with opener() as stream:
        # FastWARC unpacks by itself, record by record.
        if (compression := name.lower().rpartition(".")[2]) in COMPRESSIONS and format_ != "warc":
            stream, name = decompressed(stream, compression), name.rpartition(".")[0]
        if format_ == "parquet" and not isinstance(stream, io.BufferedReader):
            stream = held(stream)
        yield from READERS[format_](stream, name, params)


def held(stream: IO[bytes]) -> IO[bytes]:
    """`stream` in memory, where it can be read from its end.

    Raises:
        ValueError: if it is longer than MAX_PACKED_PARQUET_BYTES.
    """
    content = stream.read(MAX_PACKED_PARQUET_BYTES + 1)
    if len(content) > MAX_PACKED_PARQUET_BYTES:
        raise ValueError(f"packed Parquet of more than {MAX_PACKED_PARQUET_BYTES} bytes; unpack it first")
    return io.BytesIO(content)


def decompressed(stream: IO[bytes], compression: str) -> IO[bytes]:
    """The unpacked bytes of `stream`."""
    match compression:
        case "gz":
            return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
        case "bz2":
            return cast(IO[bytes], bz2.BZ2File(stream))
        case "xz":
            return cast(IO[bytes], lzma.LZMAFile(stream))
        case _:
            unpacker = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
            return io.BufferedReader(cast(io.RawIOBase, unpacker.stream_reader(stream, read_across_frames=True)))
