import numpy as np
import pytest

from stages.documents import write_manifest
from stages.params import Refusal
from stages.tokens import TokenStream, index_dtype, write_tokens

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
