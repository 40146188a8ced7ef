"""Find the records in downloaded files: plain, compressed, or members of zip and tar archives."""

import io
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple

from stages.extract.archives import (
    COMPRESSIONS,
    TARS,
    ZIPS,
    Entry,
    Stream,
    decompressed,
    is_archive,
    spooled,
    tar_members,
    zip_entries,
    zip_members,
)
from stages.extract.language import PROGRAMMING_LANGUAGES
from stages.extract.params import ExtractParams
from stages.extract.parts import PARTS, can_cut
from stages.extract.readers import PART_READERS, READERS
from stages.extract.records import Found, Guarded, Part, Reader, Rejected, Unreadable, unreadable
from stages.extract.references import Downloaded, File
from stages.globs import is_among, matches
from stages.params import Refusal
from stages.remote import side_by_side

ENDINGS: dict[str, tuple[str, ...]] = {
    "jsonl": ("jsonl", "ndjson"),
    "parquet": ("parquet",),
    "csv": ("csv", "tsv"),
    "text": ("txt", "text"),
    "markdown": ("md", "markdown"),
    "rst": ("rst",),
    "html": ("html", "htm", "xhtml"),
    "warc": ("warc",),
    "wet": ("wet",),
    "mediawiki": ("xml",),
    "jats": ("xml", "nxml"),
    "code": tuple(PROGRAMMING_LANGUAGES),
}
UNPACKED_BY_RECORD = ("warc", "wet")  # FastWARC unpacks gzip by itself, and can go on after a broken record
NEEDS_SEEKING = ("parquet", "warc", "wet")


class Piece(NamedTuple):
    """What is read in one go: a file, a part of a large one, or one member of a zip archive."""

    file: str
    member: str | None
    size: int  # bytes as the archive gives them, or the file system
    part: Part | None = None  # of a large file
    refused: tuple[str, str] | None = None  # rule and reason, known before it is read


def find_pieces(folder: Path, params: ExtractParams) -> list[Piece]:
    """The pieces of a downloaded source that `params.members` or the format asks for, in order of name.

    Raises:
        Refusal: if the folder is unfinished, nothing is asked for, or a glob of members matches nothing.
    """
    pieces: list[Piece] = []
    downloaded = Downloaded(folder)
    names = sorted(downloaded.sizes)

    def ask(name: str) -> list[Piece]:
        return pieces_of(downloaded.file(name), downloaded.sizes[name], params)

    for found in (side_by_side if downloaded.by_reference else map)(ask, names):
        pieces += found
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
            with file.open("rb") as stream:
                entries = zip_entries(stream, size)
        except Exception as error:  # what zipfile raises on a broken directory is no closed list
            found = unreadable(error, None)
            return [whole._replace(refused=(found.rule, found.detail))]
        return [
            Piece(name, entry.name, entry.size, refused=entry.refused)
            for entry in entries
            if is_wanted_member(entry.name, params)
        ]
    if name.lower().endswith(TARS):
        return parted(file, whole, ending(name), params)
    format_ = params.format if params.format != "auto" else format_of(name)
    return parted(file, whole, format_, params) if is_wanted(name, params) else []


def parted(file: File, whole: Piece, format_: str | None, params: ExtractParams) -> list[Piece]:
    """`whole`, or the parts of it if it is larger than a shard, and can be entered in the middle."""
    if whole.size <= params.shard_bytes or ending_of_compression(whole.file) or not can_cut(file, format_):
        return [whole]
    parts = PARTS[format_ or ""](file, whole.size, params)
    return [whole._replace(size=size, part=part) for size, part in parts] or [whole]


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
    if is_archive(name) or any(not glob.startswith("!") for glob in params.members):
        return True
    return is_of_format(name, params)


def is_wanted_within(name: str, params: ExtractParams) -> bool:
    """If the member `name` of an archive in an archive is read: globs chose the archive, so by the ending alone."""
    excluded = any(matches(glob[1:], name) for glob in params.members if glob.startswith("!"))
    return not excluded and (is_archive(name) or is_of_format(name, params))


def is_of_format(name: str, params: ExtractParams) -> bool:
    """If the ending of `name` is one of the format's."""
    return format_of(name) is not None if params.format == "auto" else ending(name) in ENDINGS[params.format]


def ending_of_compression(name: str) -> str:
    """How the file `name` is packed, by its ending: `gz`; empty if it isn't."""
    last = name.lower().rpartition(".")[2]
    return last if last in COMPRESSIONS else ""


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
        # By map, here and below: what a loop has in its hands stays in memory while the text is worked on.
        told = partial(_told, downloaded, file, params.license)
        yield from map(told, _read_file(downloaded.file(file), list(of_file), params))


def _told(
    downloaded: Downloaded, file: str, license: str | None, of_member: tuple[str | None, Found]
) -> tuple[str, Found]:
    member, found = of_member
    origin = file if member is None else f"{file}!{member}"
    return origin if found.number is None else f"{origin}#{found.number}", downloaded.told(found, license)


def _of(member: str | None, found: Found) -> tuple[str | None, Found]:
    return member, found


def _read_file(file: File, pieces: list[Piece], params: ExtractParams) -> Iterator[tuple[str | None, Found]]:
    """(member, what was found there); if the archive itself breaks, that is found, too."""
    try:
        if pieces[0].member is None and pieces[0].refused is not None:
            raise Rejected(*pieces[0].refused)
        if is_archive(file.name):
            yield from _read_members(_members(file, pieces, params), params)
            return
        for piece in pieces:
            stream = read_stream(lambda: file.open("rb"), file.name, params, piece.part)
            yield from map(partial(_of, None), Guarded(stream))
    except Exception as error:
        yield None, unreadable(error, None)


def _members(file: File, pieces: list[Piece], params: ExtractParams) -> Iterator[Stream]:
    """What opens the members of the archive `file` that `pieces` are of."""
    if file.name.lower().endswith(ZIPS):
        with file.open("rb") as stream:
            yield from zip_members(stream, (Entry(piece.member or "", piece.size, piece.refused) for piece in pieces))
        return
    for piece in pieces:
        with file.open("rb") as stream:
            yield from tar_members(stream, file.name, partial(is_wanted_member, params=params), piece.part)


def _read_members(streams: Iterator[Stream], params: ExtractParams) -> Iterator[tuple[str | None, Found]]:
    """(member, what was found there) of an archive; of an archive in it, `archive!member`."""
    for member, opener in streams:
        assert member is not None
        if is_archive(member):
            yield from _read_within(member, opener, params)
            continue
        yield from map(partial(_of, member), Guarded(read_stream(opener, member, params)))


def _read_within(
    name: str, opener: Callable[[], IO[bytes]], params: ExtractParams
) -> Iterator[tuple[str | None, Found]]:
    """(member, what was found there) of the archive `name` in an archive. One in that is not read."""
    try:
        with opener() as packed:
            for member, inner in _members_within(packed, name, partial(is_wanted_within, params=params)):
                if is_archive(member or ""):
                    yield f"{name}!{member}", Unreadable("nested_archive", "an archive in an archive in an archive")
                    continue
                found = Guarded(read_stream(inner, member or "", params))
                yield from map(partial(_of, f"{name}!{member}"), found)
    except Exception as error:
        yield name, unreadable(error, None)


def _members_within(packed: IO[bytes], name: str, is_wanted: Callable[[str], bool]) -> Iterator[Stream]:
    if name.lower().endswith(TARS):
        yield from tar_members(packed, name, is_wanted)
        return
    file, broken = spooled(packed)
    with file:
        if broken is not None:
            raise broken
        entries = [entry for entry in zip_entries(file, file.seek(0, io.SEEK_END)) if is_wanted(entry.name)]
        yield from zip_members(file, entries)


def read_stream(
    opener: Callable[[], IO[bytes]], name: str, params: ExtractParams, part: Part | None = None
) -> Iterator[Found]:
    """What is in the file or member `name`, or in a `part` of it, whose packed bytes `opener` opens."""
    name = name.rpartition("/")[2]
    format_ = params.format if params.format != "auto" else format_of(name)
    if format_ is None:
        yield Unreadable("unknown_format", f"the ending of {name} tells no format")
        return
    with opener() as stream:
        compression = ending_of_compression(name)
        if compression and not (compression == "gz" and format_ in UNPACKED_BY_RECORD):
            stream, name = decompressed(stream, compression), name.rpartition(".")[0]
        if part is not None:
            yield from PART_READERS[format_](stream, name, params, part)
        elif format_ in NEEDS_SEEKING and not stream.seekable():
            yield from read_spooled(stream, name, params, READERS[format_])
        else:
            yield from READERS[format_](stream, name, params)


def read_spooled(stream: IO[bytes], name: str, params: ExtractParams, reader: Reader) -> Iterator[Found]:
    """What `reader` finds in as much of `stream` as can be unpacked; then what broke it off, if anything did."""
    file, broken = spooled(stream)
    with file:
        if isinstance(broken, Rejected):
            raise broken
        yield from reader(file, name, params)
    if broken is not None:
        raise broken
