"""Open what is packed: compressed files, and the members of zip and tar archives.

Nothing is ever unpacked under a member's own name, so a name that leads out of its folder leads nowhere. What
unpacks to far more than text can is refused: it was made to fill a disk or a day.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import IO, Any, NamedTuple, Self, cast

import zstandard

from stages.extract.records import Part, Rejected

COMPRESSIONS = ("gz", "bz2", "xz", "zst")
ZIPS = (".zip", ".whl")
TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")

# A window as `zstd --long=31` makes it; corpora are often packed so.
ZSTD_WINDOW_BYTES = 1 << 31
ZSTD_BLOCK_BYTES = 1 << 12  # unpacked at once; a thousand of them are one of zeros

# Text packs to a tenth, repetitive tables to a hundredth. Up to FREE_BYTES anything is taken: it costs nobody a day.
MAX_RATIO = 200
FREE_BYTES = 64 << 20
MAX_UNPACKED_BYTES = 1 << 40

END_OF_DIRECTORY_BYTES = 22

# Name of the member, if there is one, and what opens its bytes as they lie there.
Stream = tuple[str | None, Callable[[], IO[bytes]]]


class Entry(NamedTuple):
    """A file in a zip archive, and by which rule and why it isn't read, if it isn't."""

    name: str
    size: int  # unpacked, as the archive says
    refused: tuple[str, str] | None = None


def is_archive(name: str) -> bool:
    """If a file of this name has members."""
    return name.lower().endswith(ZIPS + TARS)


def is_too_much(unpacked: int, packed: int) -> bool:
    """If so many bytes can't honestly come out of so few."""
    return unpacked > FREE_BYTES and (unpacked > MAX_RATIO * packed or unpacked > MAX_UNPACKED_BYTES)


def too_much(unpacked: int, packed: int) -> tuple[str, str]:
    """The rule and the reason of what `is_too_much`."""
    return "archive_bomb", f"{packed} bytes unpack to {unpacked} and more; unpack it first if that is right"


class Unpacked(io.RawIOBase):
    """The unpacked bytes of a stream, which ends with Rejected where they are too many for what was packed."""

    def __init__(self, stream: Any, packed: Callable[[], int]):
        self.stream, self.packed, self.count = stream, packed, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """How much was read."""
        return self.count

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Fill `buffer` as far as the stream goes."""
        content = self.stream.read1(len(buffer))  # read would lose what comes before a break
        buffer[: len(content)] = content
        self.count += len(content)
        if is_too_much(self.count, packed := self.packed()):
            raise Rejected(*too_much(self.count, packed))
        return len(content)

    def close(self) -> None:
        """Close the stream, too."""
        self.stream.close()
        super().close()


class Zstandard:
    """The unpacked bytes of a stream of zstd frames; zstandard's own reader takes a truncated frame for a whole one."""

    def __init__(self, stream: IO[bytes]):
        self.stream, self.held = stream, memoryview(b"")
        self.unpacker: Any = None

    def read1(self, size: int) -> bytes:
        """At most `size` bytes; none at the end.

        Raises:
            EOFError: if the last frame isn't whole.
        """
        while not self.held and (block := self._block()):
            if self.unpacker is None or self.unpacker.eof:
                self.unpacker = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()
            self.held = memoryview(self.unpacker.decompress(block))
        content, self.held = bytes(self.held[:size]), self.held[size:]
        return content

    def _block(self) -> bytes:
        if self.unpacker is not None and self.unpacker.unused_data:
            rest: bytes = self.unpacker.unused_data
            self.unpacker = None
            return rest
        block = self.stream.read(ZSTD_BLOCK_BYTES)
        if not block and self.unpacker is not None and not self.unpacker.eof:
            raise EOFError("the last zstd frame is not whole")
        return block

    def close(self) -> None:
        """Close the stream."""
        self.stream.close()


def decompressed(stream: IO[bytes], compression: str) -> IO[bytes]:
    """The unpacked bytes of `stream`."""
    unpacker: Any
    match compression:
        case "gz":
            unpacker = gzip.GzipFile(fileobj=stream)
        case "bz2":
            unpacker = bz2.BZ2File(stream)
        case "xz":
            unpacker = lzma.LZMAFile(stream)  # noqa: SIM115 -- closed with the reader around it
        case _:
            unpacker = Zstandard(stream)
    return buffered(unpacker, stream.tell)


def buffered(unpacker: Any, packed: Callable[[], int]) -> io.BufferedReader:
    """What `unpacker` gives, for what it has taken."""
    return io.BufferedReader(cast(io.RawIOBase, Unpacked(unpacker, packed)), 1 << 17)


def spooled(stream: IO[bytes]) -> tuple[IO[bytes], Exception | None]:
    """What `stream` holds, in a nameless file that can be read from its end, and what broke it off, if anything did."""
    file, broken = tempfile.TemporaryFile(), None  # noqa: SIM115 -- the caller's
    try:
        while block := stream.read1(1 << 20) if isinstance(stream, io.BufferedReader) else stream.read(1 << 16):
            file.write(block)
    except Exception as error:
        broken = error
    file.seek(0)
    return cast(IO[bytes], file), broken


# ---- zip ----------------------------------------------------------------------------------------------------


def zip_entries(file: IO[bytes], size: int) -> list[Entry]:
    """The files in a zip archive of `size` bytes, in order of name.

    Raises:
        Rejected: if all of them together unpack to too much; entries may lie over one another.
        zipfile.BadZipFile: and much else, if it has no directory that can be read.
    """
    with zipfile.ZipFile(file) as archive:
        infos = sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename)
        if not archive.infolist() and size > len(archive.comment) + END_OF_DIRECTORY_BYTES:
            raise zipfile.BadZipFile("its directory is empty")
    bombs = [is_too_much(info.file_size, info.compress_size) for info in infos]
    total = sum(info.file_size for info, bomb in zip(infos, bombs, strict=True) if not bomb)
    if is_too_much(total, size):
        raise Rejected(*too_much(total, size))
    entries, names = [], set()
    for info, bomb in zip(infos, bombs, strict=True):
        refused = too_much(info.file_size, info.compress_size) if bomb else None
        if info.filename in names:  # two documents would have one id
            refused = "duplicate_name", "another member has the same name"
        names.add(info.filename)
        entries.append(Entry(info.filename, info.file_size, refused))
    return entries


def zip_members(file: IO[bytes], entries: Iterable[Entry]) -> Iterator[Stream]:
    """What opens each of `entries` of a zip archive."""
    with zipfile.ZipFile(file) as archive:
        for entry in entries:
            yield entry.name, partial(_open_zip_member, archive, entry)


def _open_zip_member(archive: zipfile.ZipFile, entry: Entry) -> IO[bytes]:
    if entry.refused:
        raise Rejected(*entry.refused)
    packed = archive.getinfo(entry.name).compress_size
    return buffered(archive.open(entry.name), lambda: packed)


# ---- tar ----------------------------------------------------------------------------------------------------


def tar_cuts(file: IO[bytes], part_bytes: int) -> list[int]:
    """Where, in the plain tar `file`, a part of `part_bytes` and more begins: at 0, and with the head of a member.

    None, but for 0, where a part would be read otherwise than within the whole: if a name is there twice, or a head is
    for all members that follow. Only the heads are read, some 30,000 a second.

    Raises:
        tarfile.TarError: if it is broken.
    """
    cuts, names = [0], set()
    with tarfile.open(fileobj=file, mode="r:", tarinfo=Head) as archive:
        for entry in entries_of(archive):
            if entry.name in names or archive.pax_headers.keys() - {"comment"}:  # git writes one with its commit
                return [0]
            names.add(entry.name)
            if entry.offset >= cuts[-1] + part_bytes:
                cuts.append(entry.offset)
    return cuts


class Head(tarfile.TarInfo):
    """What describes a member; tarfile would take a broken one for the end of the archive, and say nothing."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """The next one.

        Raises:
            tarfile.TarError: if it is broken.
        """
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"the head of a member: {error}") from None


def entries_of(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of `archive`, which would keep them all."""
    while (entry := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]
        yield entry


def tar_members(
    file: IO[bytes], name: str, is_wanted: Callable[[str], bool], part: Part | None = None
) -> Iterator[Stream]:
    """The wanted files in the tar `file` of this name, or in a part of it, in its own order."""
    names: set[str] = set()
    if part is not None:
        file.seek(part.begin)
    compression = name.lower().rpartition(".")[2].replace("tgz", "gz")
    # tarfile would take the end of truncated gzip for the end of the archive.
    unpacked = decompressed(file, compression) if compression in COMPRESSIONS else file
    with tarfile.open(fileobj=unpacked, mode="r|", tarinfo=Head) as archive:
        for entry in entries_of(archive):
            if part is not None and entry.offset >= part.end - part.begin:
                return
            if entry.isreg() and is_wanted(entry.name):
                yield entry.name, partial(_open_tar_member, archive, entry, entry.name in names)
                names.add(entry.name)


def _open_tar_member(archive: tarfile.TarFile, entry: tarfile.TarInfo, again: bool) -> IO[bytes]:
    if again:
        raise Rejected("duplicate_name", "another member has the same name")
    if entry.issparse():  # holes cost nothing to pack
        raise Rejected("archive_bomb", "a sparse file; unpack it first if that is right")
    member = archive.extractfile(entry)
    assert member is not None
    return buffered(member, lambda: entry.size)
