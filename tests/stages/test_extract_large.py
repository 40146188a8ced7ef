"""Large files: cut into parts by size alone, read in bounded memory, also where one line is the file."""

import io
import json
import random
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow
import pyarrow.parquet
import pytest
from reading import shown, zipped

from stages.documents import write_manifest
from stages.extract import parquet
from stages.extract.files import find_pieces, group, read_pieces
from stages.extract.lines import PartOfLines
from stages.extract.params import ExtractParams
from stages.extract.parquet import read_parquet
from stages.extract.parts import line_parts
from stages.extract.shards import extract_shard

LINES = b"".join(b'{"text": "%s"}\n' % (b"x" * (number % 37)) for number in range(300)) + b'\n{"text": "last"}'


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setenv("PEDIGREE_WORKERS", "1")


def read_in_shards(folder: Path, shard_bytes: int, **more: Any) -> list[list[tuple[str, str]]]:
    """(origin, text or !rule) of each record, by shard."""
    write_manifest(folder, {})
    params = ExtractParams(shard_bytes=shard_bytes, max_document_bytes=1000, **more)
    shards = group(find_pieces(folder, params), shard_bytes)
    return [[(origin, shown(found)) for origin, found in read_pieces(folder, pieces, params)] for pieces in shards]


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES + b"\n",
        b"\n" * 100 + LINES,
        b'{"text": "%s"}\n' % (b"x" * 999) + LINES,
        LINES + b"\n" + b"y" * 3000 + b"\n" + LINES,  # a line over several parts, too long
        b"\xef\xbb\xbf" + LINES,
        LINES.decode().encode("utf-16"),
    ],
)
@pytest.mark.parametrize("shard_bytes", [31, 100, 1000])
def test_lines_have_the_same_ids_however_a_file_is_cut(tmp_path, content, shard_bytes):
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "b"}')

    whole, cut = read_in_shards(tmp_path, 1 << 20), read_in_shards(tmp_path, shard_bytes)

    assert len(whole) == 1
    assert len(cut) > 3 or content.startswith(b"\xff\xfe")
    assert [each for shard in cut for each in shard] == whole[0]


def test_a_part_holds_the_lines_that_begin_in_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"aa\nbb\n\ncccccc\nd")

    parts = [part for _, part in line_parts(path, 15, ExtractParams(shard_bytes=4))]

    with path.open("rb") as file:
        lines = [list(iter(partial(PartOfLines(file, each).readline, 99), b"")) for each in parts]
    assert lines == [[b"aa\n", b"bb\n"], [b"\n", b"cccccc\n"], [], [b"d"]]
    assert [part.first for part in parts] == [0, 2, 4, 4]


ROWS = b"text,url\r\n" + b"".join(b'"a ""%d"",\n\nb",%s\n\n' % (number, b"u" * (number % 37)) for number in range(99))


def drawn_csv(seed: int) -> bytes:
    """A file of CSV, or nearly: quotes, commas and line ends where they fall."""
    draw = random.Random(seed)
    pieces = ["a", "b,c", '"', '""', ",", "\n", "\r\n", "\r", "\0", "é", '"x\ny",z\n', "d" * 1001]
    content = "".join(draw.choices(pieces, [9, 9, 3, 3, 3, 9, 3, 0.3, 0.3, 3, 9, 0.3], k=300)).encode()
    return b"text,url\n" + content.replace(b"\xc3\xa9", draw.choice([b"\xc3\xa9", b"\xff"]))


@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        b"\xef\xbb\xbf" + ROWS,
        b'"text\n",url\n' + b"a,b\n" * 99,
        ROWS + b'"no end\n' + b"a,b\n" * 50,
        ROWS + b"d" * 3000 + b",e\n" + ROWS + b'"' + b"f\n" * 1000 + b'",g\n' + ROWS,
        ROWS.decode().encode("utf-16"),
        *map(drawn_csv, range(30)),
    ],
)
@pytest.mark.parametrize("shard_bytes", [1, 31, 1000])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_rows_of_csv_have_the_same_ids_however_a_file_is_cut(tmp_path, content, shard_bytes, name):
    (tmp_path / name).write_bytes(content.replace(b",", b"\t") if name == "a.tsv" else content)

    whole, cut = read_in_shards(tmp_path, 1 << 20), read_in_shards(tmp_path, shard_bytes)

    assert len(cut) > 1 or shard_bytes == 1000 or content.startswith(b"\xff\xfe")
    assert [each for shard in cut for each in shard] == whole[0]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"t" * 1001 + b"\na\n", b"te\rxt\na\n"])
def test_csv_without_a_header_is_one_part(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)

    assert read_in_shards(tmp_path, 1) == read_in_shards(tmp_path, 1 << 20)


def packed(format_: int, more: tuple[str, ...] = (), **headers: str) -> bytes:
    """A tar of texts, one with a long name, an archive, a folder, two links, and texts of the names `more`."""
    content = io.BytesIO()
    texts = [f"a/{number}.txt" for number in range(9)] + [f"b/{'long' * 40}é.txt", "c.bin", *more]
    with tarfile.open(fileobj=content, mode="w", format=format_, pax_headers=headers) as archive:
        for number, name in enumerate(texts):
            entry = tarfile.TarInfo(name)
            entry.size = number * 100
            archive.addfile(entry, io.BytesIO(b"%d" % (number % 10) * entry.size))
        inner = zipped({"d.txt": b"in a zip", "e.bin": b""})
        entry = tarfile.TarInfo("inner.zip")
        entry.size = len(inner)
        archive.addfile(entry, io.BytesIO(inner))
        for kind in (tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE):
            entry = tarfile.TarInfo(f"other{kind.decode()}.txt")
            entry.type, entry.linkname = kind, "a/0.txt"
            archive.addfile(entry)
    return content.getvalue()


PAX = packed(tarfile.PAX_FORMAT)


@pytest.mark.parametrize(
    ("content", "is_cut"),
    [
        (PAX, True),
        (packed(tarfile.GNU_FORMAT), True),
        (packed(tarfile.PAX_FORMAT, comment="a commit"), True),
        (packed(tarfile.PAX_FORMAT, more=("a/1.txt", "z.txt")), False),
        (packed(tarfile.PAX_FORMAT, path="all.txt"), False),
        (PAX[:5000], False),
        (PAX[:5200], False),
        (PAX[:6144] + b"no head" * 400 + PAX[6144:], False),
        (b"no tar at all" * 99, False),
        (b"", False),
    ],
)
@pytest.mark.parametrize("shard_bytes", [1, 1500, 4000])
def test_members_of_a_tar_are_the_same_however_it_is_cut(tmp_path, content, is_cut, shard_bytes):
    (tmp_path / "a.tar").write_bytes(content)

    whole, cut = (read_in_shards(tmp_path, size, format="text") for size in (1 << 20, shard_bytes))

    assert [each for shard in cut for each in shard] == whole[0]
    assert is_cut in (None, len(cut) > 1)


@pytest.mark.parametrize("shard_bytes", [1, 500, 2000])
def test_rows_have_the_same_ids_however_a_file_is_cut(tmp_path, shard_bytes):
    draw = random.Random(0)
    table = pl.DataFrame({"text": [draw.randbytes(40).hex() for _ in range(100)], "more": ["x"] * 100})
    table.write_parquet(tmp_path / "a.parquet", row_group_size=9)

    whole, cut = read_in_shards(tmp_path, 1 << 20), read_in_shards(tmp_path, shard_bytes)

    assert [each for shard in cut for each in shard] == whole[0]
    assert 1 < len(cut) <= 12


class Watched(io.FileIO):
    """A file that remembers how many bytes were read at once."""

    largest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.largest = max(self.largest, len(content))
        return content


@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_a_row_group_is_read_a_row_at_a_time_however_large_it_is(tmp_path, compression):
    rows = 50_000
    table = pyarrow.table({"text": [f"{number:01000d}" for number in range(rows)]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=rows, compression=compression)
    del table
    before = held = pyarrow.total_allocated_bytes()

    with Watched(tmp_path / "a.parquet") as file:
        for number, _ in enumerate(read_parquet(file, "a.parquet", ExtractParams())):
            held = held if number % 100 else max(held, pyarrow.total_allocated_bytes())

    assert number == rows - 1
    assert held - before < 12_000_000  # of 50 MB: a buffer, the dictionary, a page
    assert file.largest < 5_000_000


def test_a_large_row_and_those_after_it_are_the_same_and_a_break_behind_them_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "LARGE_BYTES", 1000)
    draw = random.Random(0)
    texts = [draw.randbytes(30).hex(), draw.randbytes(30_000).hex(), *(draw.randbytes(500).hex() for _ in range(99))]
    path = tmp_path / "a.parquet"
    options = {"use_dictionary": False, "compression": "zstd", "data_page_size": 10_000, "row_group_size": 90}
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, **options, write_batch_size=1)
    content = bytearray(path.read_bytes())

    whole = read_in_shards(tmp_path, 1 << 20)[0]
    page = content.index(b"\x28\xb5\x2f\xfd", 50_000)  # how zstd begins
    content[page : page + 4] = bytes(4)
    path.write_bytes(content)
    broken = read_in_shards(tmp_path, 1 << 20)[0]

    assert [text for _, text in whole] == texts
    lost = next(number for number, (_, text) in enumerate(broken) if text.startswith("!"))
    assert 2 < lost < 89
    assert broken == [*whole[:lost], (whole[lost][0], "!unreadable"), *whole[90:]]


@pytest.mark.parametrize("content", [b"", b"no parquet at all", b"PAR1" * 9])
def test_parquet_that_is_none_is_one_part(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)

    assert read_in_shards(tmp_path, 1) == [[("a.parquet", "!unreadable")]]


def test_a_line_of_200_megabytes_costs_only_itself(tmp_path):
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "a"}\n{"text": "')
        for _ in range(200):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text": "b"}\n')

    found = read_in_shards(tmp_path, 64 << 20)

    assert found == [[("a.jsonl#0", "a"), ("a.jsonl#1", "!oversized")], [], [("a.jsonl#2", "b")]]


@pytest.mark.parametrize("number", [100_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_many_empty_documents_are_read_in_bounded_time_and_written_in_batches(tmp_path, number):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(b'{"text": ""}\n' * number)
    write_manifest(tmp_path / "in", {})
    params = ExtractParams()
    begin = time.process_time()

    shard = (0, find_pieces(tmp_path / "in", params))
    counts = extract_shard(shard, source="s", params=params, folder=tmp_path / "in", target=tmp_path)

    assert counts["dropped"] == {"empty": number}
    assert pl.read_parquet(tmp_path / "unreadable-00000.parquet")["origin"].n_unique() == number
    assert time.process_time() - begin < 2e-4 * number  # 3e-5 on a free core


EXTRACT = """
from pathlib import Path
from stages.extract.files import find_pieces
from stages.extract.params import ExtractParams
from stages.extract.shards import extract_shard

if __name__ == "__main__":
    params, folder = ExtractParams(max_document_bytes=300_000_000, shard_bytes=1 << 30), Path("in")
    counts = extract_shard((0, find_pieces(folder, params)), "s", params, folder, Path("out"))
    # Not ru_maxrss: that begins with what the process held that started this one.
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    print(counts["kept"], counts["bytes"], peak // 1024)
"""


@pytest.mark.long
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_document_of_200_megabytes_passes_in_a_worker_of_one_gigabyte(tmp_path, name):
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(5000)]
    line = " ".join(draw.choices(words, k=200_000)) + "\n"
    text = line * (200_000_000 // len(line) + 1)
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    if name == "a.parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": [text, "b"]}), tmp_path / "in" / name)
    else:
        (tmp_path / "in" / name).write_text(text if name == "a.txt" else json.dumps({"text": text}) + "\n")
    write_manifest(tmp_path / "in", {})
    (tmp_path / "run.py").write_text(EXTRACT)

    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=True)

    kept, size, megabytes = map(int, done.stdout.split())
    assert (kept, size) == ((2, len(text)) if name == "a.parquet" else (1, len(text) - 1))
    assert megabytes < 1024
