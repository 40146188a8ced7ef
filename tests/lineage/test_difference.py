"""A flipped bit in any kind of artifact is found, and its place is named in the words of what it holds."""

import json
import shutil
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from damage import flip
from tiny import Project

from lineage.attestation.digests import md5_files, md5_of
from lineage.builds import print_verdict
from lineage.difference import difference, first_byte
from stages.tokens import write_tokens


def files(folder: Path, name: str, first: bytes, second: bytes) -> tuple[Path, Path]:
    """Two files of this name, each in a folder of its own."""
    paths = folder / "first" / name, folder / "second" / name
    for path, data in zip(paths, (first, second), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return paths


@pytest.mark.parametrize(
    ("name", "first", "second", "said"),
    [
        ("a", b"same", b"same", None),
        ("a", b"same", b"sane", "byte 2: 0x6d and 0x6e"),
        ("a", b"same", b"same here", "byte 4: the end and 0x20"),
        ("a", b"", b"x", "byte 0: the end and 0x78"),
        ("a.json", b'{"a": {"b": [1, 2]}}', b'{"a": {"b": [1, 3]}}', "key a.b[1]: 2 and 3"),
        ("a.json", b'{"a": 1}', b'{"a": 1, "b": 2}', "key b is only in one"),
        ("a.json", b'{"a": [1]}', b'{"a": [1, 2]}', "key a: 1 and 2 entries"),
        ("a.json", b'{"a": 1}', b'{"a": true}', "key a: 1 and True"),
        ("a.json", b'{"a": NaN, "b": 1}', b'{"a": NaN, "b": 2}', "key b: 1 and 2"),
        ("a.json", b'{"a": 1}', b'{"a":  1}', "the same values in other bytes, from byte 6 on"),
        ("a.json", b'{"a": 1}', b'{"a": 1]', "byte 7: 0x7d and 0x5d"),
        ("a.csv", b"step,loss\n1,2.5\n2,2.25\n", b"step,loss\n1,2.5\n2,2.125\n", "row 1, column loss: 2.25 and 2.125"),
        ("a.csv", b"a,b\n1,2\n", b"a,c\n1,2\n", "heading 1: b and c"),
        ("a.csv", b"a\n1\n", b"a\n1\n2\n", "row 1 is the first that only one has"),
        ("a.jsonl", b"one\ntwo\n", b"one\n\x1b[2Jtwo\n", "line 2: two⏎ and �[2Jtwo⏎"),
        ("a.bin", b"no index", b"no  index", "byte 3: 0x69 and 0x20"),
        ("a.safetensors", b"\xff" * 20, b"\xff" * 19 + b"\xfe", "byte 19: 0xff and 0xfe"),
        ("a.parquet", b"no table", b"no Table", "byte 3: 0x74 and 0x54"),
    ],
)
def test_the_first_difference_is_named(tmp_path, name, first, second, said):
    assert difference(*files(tmp_path, name, first, second)) == said


def test_a_difference_behind_the_first_piece_is_found(tmp_path):
    data = bytes(3_000_000)

    assert first_byte(*files(tmp_path, "a", data, data[:2_500_000] + b"\1" + data[2_500_001:])) == 2_500_000


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (pl.DataFrame({"id": ["a", "b", "c"], "keep": [True, False, None]}), "row 1, column keep: True and False"),
        (pl.DataFrame({"id": ["a", "b", "x"], "keep": [True, None, None]}), "row 1, column keep: True and nothing"),
        (pl.DataFrame({"id": ["a", "b"], "keep": [True, True]}), "row 2 is the first that only one has: 3 and 2 rows"),
        (pl.DataFrame({"id": ["a", "b", "c"], "keep": [1, 1, 0]}), "column keep: Boolean and Int64"),
        (pl.DataFrame({"id": ["a", "b", "c"]}), "column keep: Boolean and None"),
        (pl.DataFrame({"keep": [True, True, None], "id": ["a", "b", "c"]}), "column order"),
    ],
)
def test_of_two_tables_the_first_row_and_its_column(tmp_path, changed, said):
    first, second = files(tmp_path, "a.parquet", b"", b"")
    pl.DataFrame({"id": ["a", "b", "c"], "keep": [True, True, None]}).write_parquet(first)
    changed.write_parquet(second)

    assert difference(first, second) == said


def test_the_same_table_in_other_bytes_is_called_so(tmp_path):
    first, second = files(tmp_path, "a.parquet", b"", b"")
    table = pl.DataFrame({"id": ["a"] * 100})
    table.write_parquet(first, compression="zstd")
    table.write_parquet(second, compression="snappy")

    assert difference(first, second).startswith("the same table in other bytes, from byte ")


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_of_two_token_shards_the_position_and_both_tokens(tmp_path, dtype):
    first, second = files(tmp_path, "a", b"", b"")
    for folder, token in ((first.parent, 7), (second.parent, 301)):
        write_tokens(folder, 0, [np.array([1, 2, 3]), np.array([4, token])], dtype)

    assert difference(first.with_name("tokens-00000.bin"), second.with_name("tokens-00000.bin")) == "token 4: 7 and 301"


def tensors(kind: str, shape: list[int], data: bytes) -> bytes:
    """A file of two tensors, as the description of the format has it; the second one is `w`."""
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "w": {"dtype": kind, "shape": shape, "data_offsets": [4, 4 + len(data)]},
            "first": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + b"abcd" + data


@pytest.mark.parametrize(
    ("kind", "shape", "first", "second", "said"),
    [
        ("F32", [2, 2], struct.pack("<4f", 0, 1, 2, 3), struct.pack("<4f", 0, 1, 2.5, 3), "[1, 0]: 2.0 and 2.5"),
        ("BF16", [2], b"\x80\x3f\x00\x40", b"\x80\x3f\x80\x40", "[1]: 2.0 and 4.0"),
        ("I64", [], struct.pack("<q", -5), struct.pack("<q", -6), "[]: -5 and -6"),
        ("F8_E4M3", [2], b"\x01\x02", b"\x01\x03", "[1]: 0x02 and 0x03"),
    ],
)
def test_of_two_models_the_tensor_and_the_index(tmp_path, kind, shape, first, second, said):
    pair = files(tmp_path, "a.safetensors", tensors(kind, shape, first), tensors(kind, shape, second))

    assert difference(*pair) == f"tensor w, index {said}"


def test_models_of_other_shapes_are_not_compared_by_value(tmp_path):
    pair = files(tmp_path, "a.safetensors", tensors("U8", [2, 1], b"ab"), tensors("U8", [1, 2], b"ab"))

    assert difference(*pair) == "tensor w: U8 [2, 1] and U8 [1, 2]"


@pytest.fixture
def rebuilt(built: Project, tmp_path: Path) -> Iterator[Path]:
    """Another build of the same, without a cache."""
    folder = tmp_path / "rebuilt"
    shutil.copytree(built.folder, folder, symlinks=True, ignore=shutil.ignore_patterns(".dvc", "corpus", "flows"))
    yield folder
    shutil.rmtree(folder)


def commit_out(root: Path, path: str) -> None:
    """What `dvc commit` does to dvc.lock: the digest of the out that holds the file `path` is what it is now."""
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    for stage in lock["stages"].values():
        for out in stage["outs"]:
            if Path(path).is_relative_to(out["path"]):
                out["md5"] = md5_of(md5_files(root / out["path"]))
    (root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))


def flip_decision(path: Path) -> None:
    table = pl.read_parquet(path)
    keep = table["keep"].to_list()
    keep[5] = not keep[5]
    table.with_columns(keep=pl.Series(keep)).write_parquet(path)


def flip_parameter(path: Path) -> None:
    path.write_text(path.read_text().replace('"hidden_size": 32', '"hidden_size": 33'))


@pytest.mark.parametrize(
    ("path", "change", "said", "code"),
    [
        ("data/dedup/stories/decisions-00000.parquet", flip_decision, "row 5, column keep: ", 1),
        ("data/tokenize/scripts/tokens-00000.bin", partial(flip, offset=20), "token 10: ", 1),
        ("models/base/model.safetensors", flip, "index [", 0),
        ("models/base/config.json", flip_parameter, "key hidden_size: 32 and 33", 0),
    ],
)
def test_verify_names_what_differs_in_a_rebuilt_build(built, rebuilt, capsys, path, change, said, code):
    change(rebuilt / path)
    commit_out(rebuilt, path)

    assert print_verdict(built.folder, rebuilt) == code

    table = " ".join(part.strip() for part in capsys.readouterr().out.replace("│", " ").split())
    assert Path(path).name in table.replace(" ", "")
    assert said.replace(" ", "") in table.replace(" ", "")


def test_a_rebuilt_stage_is_compared_with_what_it_needs_and_no_more(built, rebuilt, capsys):
    flip(rebuilt / "models/base/model.safetensors")
    commit_out(rebuilt, "models/base/model.safetensors")

    assert print_verdict(built.folder, rebuilt, stages=["download@stories", "extract@stories"]) == 0
    assert "models/base" not in capsys.readouterr().out
    assert print_verdict(built.folder, rebuilt, stages=["tokenizer", "pretrain"]) == 1
    assert "the evaluation was not built again" in capsys.readouterr().out
