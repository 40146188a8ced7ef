"""Files, archives, and how their records are found and grouped."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile

import polars as pl
import pytest
import zstandard
from reading import PACKERS, read, tarred, zipped

from stages.documents import write_manifest
from stages.extract import archives
from stages.extract.files import find_pieces, format_of, group, matches
from stages.extract.params import ExtractParams
from stages.params import Refusal

# ---- files and archives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", PACKERS)
def test_files_are_read_through_their_compression(tmp_path, ending):
    content = PACKERS[ending](b'{"text": "one"}\n{"text": "two"}\n')

    found = read(tmp_path, {f"a.jsonl{ending}": content})

    assert found == [(f"a.jsonl{ending}#0", "one"), (f"a.jsonl{ending}#1", "two")]


MEMBERS = {
    "x/b.txt": b"b",
    "x/a.txt": b"a",
    "x/y/c.txt": b"c",
    "x/d.md": b"d",
    "e.bin": b"e",
    "x/f.txt.gz": gzip.compress(b"f"),
}


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"format": "text"}, ["x/a.txt", "x/b.txt", "x/f.txt.gz", "x/y/c.txt"]),
        ({"format": "auto"}, ["x/a.txt", "x/b.txt", "x/d.md", "x/f.txt.gz", "x/y/c.txt"]),
        ({"format": "text", "members": ["x/*.txt"]}, ["x/a.txt", "x/b.txt"]),
        ({"format": "text", "members": ["**/*.txt", "!x/[bc]*"]}, ["x/a.txt", "x/y/c.txt"]),
        ({"format": "text", "members": ["x/**"]}, ["x/a.txt", "x/b.txt", "x/d.md", "x/f.txt.gz", "x/y/c.txt"]),
        ({"format": "text", "members": ["e.bin"]}, ["e.bin"]),
    ],
)
def test_members_of_a_zip_are_chosen_by_glob_or_ending_and_read_in_order_of_name(tmp_path, params, names):
    found = read(tmp_path, {"w.whl": zipped(MEMBERS)}, **params)

    assert [origin for origin, _ in found] == [f"w.whl!{name}" for name in names]
    assert [text for _, text in found] == [name.rpartition("/")[2][0] for name in names]


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz"), ("tar.xz", "w:xz")])
def test_members_of_a_tar_are_read_in_its_own_order(tmp_path, ending, mode):
    content = tarred([("b.txt", b"b"), ("a.txt", b"a"), ("c.bin", b"c")], mode)

    found = read(tmp_path, {f"t.{ending}": content}, format="text")

    assert found == [(f"t.{ending}!b.txt", "b"), (f"t.{ending}!a.txt", "a")]


def test_a_tar_packed_with_zstd_is_read(tmp_path):
    content = zstandard.compress(tarred([("a.jsonl", b'{"text": "a"}\n')]))

    assert read(tmp_path, {"t.tar.zst": content}) == [("t.tar.zst!a.jsonl#0", "a")]


def test_the_second_member_of_one_name_is_no_document_of_the_same_id(tmp_path):
    content = tarred([("a.txt", b"first"), ("a.txt", b"second")])

    assert read(tmp_path, {"t.tar": content}, format="text") == [
        ("t.tar!a.txt", "first"),
        ("t.tar!a.txt", "!duplicate_name"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "rules"),
    [
        ("a.zip", b"no zip at all", ["!truncated"]),
        ("a.zip", zipped({"a.txt": b"a"})[:-20], ["!truncated"]),
        ("a.tar", b"no tar at all", ["!truncated"]),
        ("a.tar", b"", ["!truncated"]),
        ("a.tar.gz", tarred([("a.txt", b"a"), ("b.txt", random.Random(0).randbytes(9999))], "w:gz")[:-5000], None),
        ("a.tar.gz", tarred([("a.txt", b"a"), ("b.txt", b"b")], "w:gz")[:-12], None),
        ("a.txt.gz", gzip.compress(b"some text" * 100)[:-12], ["!truncated"]),
        ("a.txt.gz", b"no gzip", ["!unreadable"]),
        ("a.txt.bz2", bz2.compress(b"some text" * 100)[:-12], ["!truncated"]),
        ("a.txt.xz", lzma.compress(b"some text" * 100)[:-12], ["!truncated"]),
        ("a.txt.zst", b"no zstandard", ["!unreadable"]),
        ("a.txt.zst", zstandard.compress(b"some text" * 100)[:-2], ["!truncated"]),
        ("a.jsonl.gz", gzip.compress(b'{"text": "one"}\n' + bytes(range(256)) * 99)[:-9], None),
    ],
)
def test_a_broken_container_is_unreadable_and_never_an_exception(tmp_path, name, content, rules):
    found = read(tmp_path, {name: content, "z.txt": b"the next file"}, format="jsonl" if "jsonl" in name else "text")

    shown = [text for origin, text in found if origin.startswith("a.")]
    assert shown == rules if rules else shown[-1].startswith("!")
    assert found[-1][0].startswith("z.txt")


@pytest.mark.parametrize("until", [1024, 1100])
def test_a_member_of_a_tar_whose_head_is_broken_is_told_with_all_that_follow(tmp_path, until):
    content = tarred([("a.txt", b"a"), ("b.txt", b"b"), ("c.txt", b"c")])

    found = read(tmp_path, {"t.tar": content[:until] + b"x" * (1536 - until) * (until == 1024)}, format="text")

    assert found == [("t.tar!a.txt", "a"), ("t.tar", "!truncated")]


def test_a_member_that_is_damaged_costs_no_other(tmp_path):
    content = bytearray(zipped({"a.txt": b"a text" * 99, "b.txt": b"b"}))
    content[40:44] = b"\xff\xff\xff\xff"

    found = read(tmp_path, {"w.zip": bytes(content)}, format="text")

    assert [text[:2] for _, text in found] == ["!t", "b"]


def test_a_member_that_unpacks_to_more_than_a_document_is_oversized(tmp_path):
    bomb = zipped({"a.txt": b"\0" * 10_000_000, "b.txt": b"b"})

    found = read(tmp_path, {"w.zip": bomb}, format="text", max_document_bytes=1000)

    assert found == [("w.zip!a.txt", "!oversized"), ("w.zip!b.txt", "b")]


# ---- archives in archives, bombs, names ---------------------------------------------------------------------

INNER = {"x/a.txt": b"inner", "b.bin": b"no text"}


@pytest.mark.parametrize(
    ("outer", "content"),
    [
        ("o.zip", zipped({"i.zip": zipped(INNER), "z.txt": b"outer"})),
        ("o.zip", zipped({"i.tar.gz": tarred(list(INNER.items()), "w:gz"), "z.txt": b"outer"})),
        ("o.tar", tarred([("i.zip", zipped(INNER)), ("z.txt", b"outer")])),
        ("o.tar.gz", tarred([("i.tar", tarred(list(INNER.items()))), ("z.txt", b"outer")], "w:gz")),
    ],
)
def test_an_archive_in_an_archive_is_read(tmp_path, outer, content):
    found = read(tmp_path, {outer: content}, format="text")

    inner = next(origin for origin, _ in found).split("!")[1]
    assert found == [(f"{outer}!{inner}!x/a.txt", "inner"), (f"{outer}!z.txt", "outer")]


def test_an_archive_in_an_archive_in_an_archive_is_not_read_and_says_so(tmp_path):
    content = zipped({"i.zip": zipped({"j.zip": zipped(INNER), "k.txt": b"k"})})

    found = read(tmp_path, {"o.zip": content}, format="text")

    assert found == [("o.zip!i.zip!j.zip", "!nested_archive"), ("o.zip!i.zip!k.txt", "k")]


def test_globs_choose_which_archives_of_an_archive_are_read(tmp_path):
    content = zipped({"i.zip": zipped(INNER), "j.zip": zipped(INNER)})

    assert [origin for origin, _ in read(tmp_path, {"o.zip": content}, format="text", members=["j.*"])] == [
        "o.zip!j.zip!x/a.txt"
    ]


@pytest.mark.parametrize("name", ["../../a.txt", "/etc/a.txt", "a\n\x1b[2J.txt", "C:\\a.txt"])
@pytest.mark.parametrize("pack", [lambda name: zipped({name: b"a"}), lambda name: tarred([(name, b"a")])])
def test_a_name_that_leads_out_of_the_folder_is_only_a_name(tmp_path, pack, name):
    folder = tmp_path / "a/b/c"
    folder.mkdir(parents=True)
    archive = "w.zip" if pack(name)[:2] == b"PK" else "w.tar"

    found = read(folder, {archive: pack(name)}, format="text")

    assert found == [(f"{archive}!{name}", "a")]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(["manifest.json", archive])


ZEROS = bytes(3_000_000)


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1_000_000)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize(
    ("files", "bomb"),
    [
        ({"a.jsonl.gz": gzip.compress(ZEROS)}, "a.jsonl.gz"),
        ({"a.jsonl.bz2": bz2.compress(ZEROS)}, "a.jsonl.bz2"),
        ({"a.jsonl.xz": lzma.compress(ZEROS)}, "a.jsonl.xz"),
        ({"a.jsonl.zst": zstandard.compress(ZEROS)}, "a.jsonl.zst"),
        ({"a.zip": zipped({"a.jsonl": ZEROS, "b.jsonl": b'{"text": "b"}'})}, "a.zip!a.jsonl"),
        ({"a.zip": zipped({"i.zip": zipped({"a.jsonl": ZEROS})})}, "a.zip!i.zip!a.jsonl"),
        ({"a.zip": zipped({"i.jsonl.gz": gzip.compress(ZEROS)})}, "a.zip!i.jsonl.gz"),
        ({"a.tar.gz": tarred([("a.jsonl", ZEROS)], "w:gz")}, "a.tar.gz!a.jsonl"),
        ({"a.tar.gz": tarred([("b.txt", ZEROS), ("a.jsonl", b"")], "w:gz")}, "a.tar.gz"),
        ({"a.parquet.gz": gzip.compress(ZEROS)}, "a.parquet.gz"),
    ],
)
def test_what_unpacks_to_far_more_than_text_can_is_a_bomb_and_costs_no_other_file(tmp_path, files, bomb):
    found = read(tmp_path, {**files, "z.jsonl": b'{"text": "z"}'}, max_document_bytes=10_000)

    assert (bomb, "!archive_bomb") in [(origin.partition("#")[0], text) for origin, text in found]
    assert found[-1] == ("z.jsonl#0", "z")


@pytest.mark.usefixtures("small_limits")
def test_a_zip_whose_members_lie_over_one_another_is_a_bomb(tmp_path):
    content = overlapping(zipped({"a.txt": random.Random(0).randbytes(100_000).hex().encode()}), copies=500)

    found = read(tmp_path, {"w.zip": content, "z.txt": b"z"}, format="text", max_document_bytes=1_000_000)

    assert found == [("w.zip", "!archive_bomb"), ("z.txt", "z")]


def overlapping(content: bytes, copies: int) -> bytes:
    """A zip of one member whose directory names that member many times."""
    begin, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry = content[begin:end]
    entries = b"".join(entry.replace(b"a.txt", b"%05d" % number) for number in range(copies))
    count = copies.to_bytes(2, "little")
    tail = content[end : end + 8] + count + count + len(entries).to_bytes(4, "little") + content[end + 16 :]
    return content[:begin] + entries + tail


def test_a_sparse_file_in_a_tar_is_a_bomb(tmp_path):
    entry = tarfile.TarInfo("a.jsonl")
    entry.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT)[:512])
    header[483:495] = b"77777777777\0"  # its size, holes included
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)

    found = read(tmp_path, {"a.tar": bytes(header) + tarred([("b.jsonl", b'{"text": "b"}')])})

    assert found == [("a.tar!a.jsonl", "!archive_bomb"), ("a.tar!b.jsonl#0", "b")]


def test_the_second_member_of_one_name_of_a_zip_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("a.txt", b"first")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.txt", b"second")

    assert read(tmp_path, {}, format="text") == [("w.zip!a.txt", "second"), ("w.zip!a.txt", "!duplicate_name")]


def test_parquet_is_read_in_any_packing(tmp_path):
    written = io.BytesIO()
    pl.DataFrame({"text": ["one"]}).write_parquet(written)
    packed = {f"a.parquet{ending}": pack(written.getvalue()) for ending, pack in PACKERS.items()}

    found = read(tmp_path, {**packed, "t.tar": tarred([("b.parquet", written.getvalue())])})

    assert [text for _, text in found] == ["one"] * 6


@pytest.mark.parametrize(
    ("files", "params", "sentence"),
    [
        ({"w.zip": zipped({"a.txt": b"a"})}, {"format": "jats"}, "no file of format jats in w.zip"),
        ({"w.zip": zipped({"a.txt": b"a"})}, {"members": ["*.txt", "b/*"]}, r"members: b/\* matches nothing"),
        ({"a.txt": b"a"}, {"members": ["b.txt"]}, "no file of format auto in a.txt"),
    ],
)
def test_parameters_that_ask_for_nothing_are_refused(tmp_path, files, params, sentence):
    with pytest.raises(Refusal, match=sentence):
        read(tmp_path, files, **params)


def test_a_downloaded_file_that_was_truncated_since_is_refused(tmp_path):
    read(tmp_path, {"a.txt": b"whole"})
    (tmp_path / "a.txt").write_bytes(b"who")

    with pytest.raises(Refusal, match=r"a\.txt is missing or truncated"):
        find_pieces(tmp_path, ExtractParams())


@pytest.mark.parametrize(
    ("glob", "name", "does"),
    [
        ("*.txt", "a.txt", True),
        ("*.txt", "x/a.txt", False),
        ("**/*.txt", "a.txt", True),
        ("**/*.txt", "x/y/a.txt", True),
        ("x/**", "x/y/a.txt", True),
        ("x/**/tests/**", "x/a/tests/b", True),
        ("x/**/tests/**", "x/a/test", False),
        ("a?c.[tm]*", "abc.md", True),
        ("a[!b]c", "abc", False),
        ("a.txt", "aXtxt", False),
        ("(a)+.txt", "(a)+.txt", True),
    ],
)
def test_globs_know_folders(glob, name, does):
    assert matches(glob, name) == does


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.jsonl.zst", "jsonl"), ("a.parquet", "parquet"), ("A.TXT", "text"), ("a.md", "markdown"), ("a.rst", "rst"),
        ("a.htm", "html"), ("a.warc.gz", "warc"), ("a.py", "code"), ("a.nxml", "jats"), ("a.xml", None), ("a", None),
        ("gz", None), ("a.gz", None),
    ],
)  # fmt: skip
def test_the_format_is_told_by_the_ending(name, format_):
    assert format_of(name) == format_


def test_a_file_whose_ending_tells_no_format_is_unreadable(tmp_path):
    assert read(tmp_path, {"a.xyz": b"?", "b.txt": b"b"}) == [("a.xyz", "!unknown_format"), ("b.txt", "b")]


@pytest.mark.parametrize(
    ("shard_bytes", "groups"), [(1, ["a", "b", "c", "d"]), (3, ["a", "bc", "d"]), (5, ["ab", "cd"]), (99, ["abcd"])]
)
def test_small_files_are_grouped_in_order_by_size_alone(tmp_path, shard_bytes, groups):
    sizes = {"a": 4, "b": 2, "c": 1, "d": 9}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    write_manifest(tmp_path, {})

    found = group(find_pieces(tmp_path, ExtractParams(format="text")), shard_bytes)

    assert ["".join(piece.file for piece in each) for each in found] == groups
