"""Files, archives, and how their records are found and grouped."""

import bz2
import gzip
import lzma
import random

import pytest
import zstandard
from reading import PACKERS, read, tarred, zipped

from stages.documents import write_manifest
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
        ("t.tar!a.txt", "!unreadable"),
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
        ("a.jsonl.gz", gzip.compress(b'{"text": "one"}\n' + bytes(range(256)) * 99)[:-9], None),
    ],
)
def test_a_broken_container_is_unreadable_and_never_an_exception(tmp_path, name, content, rules):
    found = read(tmp_path, {name: content, "z.txt": b"the next file"}, format="jsonl" if "jsonl" in name else "text")

    shown = [text for origin, text in found if origin.startswith("a.")]
    assert shown == rules if rules else shown[-1].startswith("!")
    assert found[-1][0].startswith("z.txt")


def test_a_member_that_is_damaged_costs_no_other(tmp_path):
    content = bytearray(zipped({"a.txt": b"a text" * 99, "b.txt": b"b"}))
    content[40:44] = b"\xff\xff\xff\xff"

    found = read(tmp_path, {"w.zip": bytes(content)}, format="text")

    assert [text[:2] for _, text in found] == ["!t", "b"]


def test_a_member_that_unpacks_to_more_than_a_document_is_oversized(tmp_path):
    bomb = zipped({"a.txt": b"\0" * 10_000_000, "b.txt": b"b"})

    found = read(tmp_path, {"w.zip": bomb}, format="text", max_document_bytes=1000)

    assert found == [("w.zip!a.txt", "!oversized"), ("w.zip!b.txt", "b")]


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
