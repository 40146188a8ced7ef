"""What the readers of extract make of files that a test writes."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import zstandard

from stages.documents import write_manifest
from stages.extract.files import find_pieces, read_pieces
from stages.extract.params import ExtractParams
from stages.extract.records import Found, Record


def read(folder: Path, files: dict[str, bytes], **params: object) -> list[tuple[str, str]]:
    """(origin, text or !rule) of what is found in `files`."""
    return [(origin, shown(found)) for origin, found in found_in(folder, files, **params)]


def found_in(folder: Path, files: dict[str, bytes], **params: object) -> list[tuple[str, Found]]:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    write_manifest(folder, {})
    typed = ExtractParams.model_validate(params)
    return list(read_pieces(folder, find_pieces(folder, typed), typed))


def shown(found: Found) -> str:
    return found.text if isinstance(found, Record) else f"!{found.rule}"


def zipped(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


def tarred(members: list[tuple[str, bytes]], mode: str = "w") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, member in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(member)
            archive.addfile(entry, io.BytesIO(member))
    return content.getvalue()


PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
