import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.documents import write_manifest
from stages.params import Refusal
from stages.tokens import HEAD_BYTES, INDEX_MAGIC, TokenStream, index_dtype, write_tokens

SHARDS = [[[5, 6, 0], [7, 0]], [], [[8, 9, 10, 0]]]
STREAM = [5, 6, 0, 7, 0, 8, 9, 10, 0]


@pytest.fixture
def folder(tmp_path):
    for number, documents in enumerate(SHARDS):
        write_tokens(tmp_path, number, [np.array(tokens) for tokens in documents], "uint16")
    write_manifest(tmp_path, {})
    return tmp_path


def test_shards_are_one_stream(folder):
    stream = TokenStream.open(folder)

    assert len(stream) == len(STREAM)
    for begin in range(len(STREAM)):
        for end in range(begin, len(STREAM) + 1):
            assert stream.read(begin, end).tolist() == STREAM[begin:end]


def test_megatron_core_reads_what_we_write(folder):
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset", reason="pip install megatron-core")

    dataset = indexed_dataset.IndexedDataset(str(folder / "tokens-00000"))

    assert [dataset[number].tolist() for number in range(len(dataset))] == SHARDS[0]
    assert dataset.document_indices.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("uint16", np.uint16), ("int32", np.int32)])
def test_tokens_keep_their_type(tmp_path, dtype, numpy_dtype):
    write_tokens(tmp_path, 0, [np.array([1, 2, 65535])], dtype)
    write_manifest(tmp_path, {})

    assert index_dtype(tmp_path / "tokens-00000.idx") == numpy_dtype
    assert TokenStream.open(tmp_path).read(0, 3).tolist() == [1, 2, 65535]


def test_a_truncated_shard_is_named(folder):
    with (folder / "tokens-00002.bin").open("r+b") as file:
        file.truncate(4)

    with pytest.raises(Refusal, match=r"tokens-00002\.bin is missing or truncated"):
        TokenStream.open(folder)


def test_another_kind_of_index_is_named(folder):
    (folder / "tokens-00000.idx").write_bytes(b"x" * (folder / "tokens-00000.idx").stat().st_size)

    with pytest.raises(Refusal, match=r"tokens-00000\.idx is not a Megatron-core index"):
        TokenStream.open(folder)


def sparse(folder: Path, shards: int, shard_bytes: int) -> None:
    """Token shards that hold zeros only and take no room, with indexes and a manifest."""
    head = INDEX_MAGIC + struct.pack("<QB", 1, 8)
    entries = []
    for number in range(shards):
        for suffix, size, start in (("bin", shard_bytes, b""), ("idx", HEAD_BYTES, head)):
            path = folder / f"tokens-{number:05d}.{suffix}"
            path.write_bytes(start)
            os.truncate(path, size)
            entries.append({"path": path.name, "bytes": size, "sha256": ""})
    (folder / "manifest.json").write_text(json.dumps({"counts": {}, "shards": entries}))


OPEN = """
import resource, sys, time
from pathlib import Path
from stages.tokens import TokenStream

begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stream = TokenStream.open(Path(sys.argv[1]))
for position in range(0, len(stream) - 10, len(stream) // 50):
    assert not stream.read(position, position + 10).any()
print(len(stream), time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_opening_eight_terabytes_takes_seconds_and_no_more_memory_than_eight_megabytes(tmp_path):
    def opened(shards: int, shard_bytes: int) -> tuple[int, float, int]:
        """Tokens, seconds of a processor, and kB."""
        folder = tmp_path / str(shards)
        folder.mkdir()
        sparse(folder, shards, shard_bytes)
        done = subprocess.run(
            [sys.executable, "-c", OPEN, str(folder)], capture_output=True, text=True, check=True, timeout=60
        )
        tokens, seconds, memory = done.stdout.split()
        return int(tokens), float(seconds), int(memory)

    few, many = opened(4, 2 << 20), opened(4000, 2 << 30)

    assert (few[0], many[0]) == (4 << 20, 4000 << 30)
    assert many[1] < 2.0
    assert many[2] - few[2] < 16_000  # the list of the shards
