"""What people get wrong: one sentence with file, key, value and remedy, exit code 2, nothing half-written."""

import shutil
import subprocess
import sys

import pytest
from tiny import Project

from stages.documents import MANIFEST


def refuse(project: Project, *stage: str) -> str:
    """The sentence with which a stage refuses."""
    done = project.stage(*stage)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    [sentence] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return sentence


@pytest.mark.parametrize(
    ("stage", "key", "value", "sentence"),
    [
        (("pretrain",), "pretrain.sede", 1, "params.yaml: pretrain.sede is not a parameter of this stage"),
        (("pretrain",), "pretrain.tokens", "many", "params.yaml: pretrain.tokens is 'many'"),
        (("pretrain",), "pretrain.tokens", None, "params.yaml: pretrain.tokens is missing; add it"),
        (("pretrain",), "pretrain.schedule.shape", "step", "params.yaml: pretrain.schedule.shape is 'step'"),
        (("pretrain",), "mixture.stories", -1, "params.yaml: mixture.stories is -1; give a positive number"),
        (("pretrain",), "mixture", {"stories": 1}, "params.yaml: mixture must give each of the sources"),
        (("pretrain",), "pretrain.sequence_length", 100_000, "multiple of sequence_length"),
        (("pretrain",), "pretrain.objective", "masked", "set tokenizer.mask_token"),
        (("dedup",), "dedup.held_out", 1.5, "params.yaml: dedup.held_out is 1.5"),
        (("tokenizer",), "tokenizer.vocabulary", 100, "params.yaml: tokenizer.vocabulary is 100"),
        (("tokenize", "stories"), "tokenize.dtype", "uint8", "params.yaml: tokenize.dtype is 'uint8'"),
        (("filter", "stories"), "sources.stories.filter.gofer", {}, "sources.stories.filter.gofer is not a parameter"),
        (("extract", "stories"), "sources.stories.extract.format", "docx", "sources.stories.extract.format is 'docx'"),
        (("download", "stories"), "sources.stories.download.kind", "magic", "sources.stories.download"),
        (("download", "nobody"), "pretrain.seed", 0, "section sources.nobody is missing"),
        (("evaluate",), "evaluate.stride", 64, "stride (64) must not exceed sequence_length (32)"),
    ],
)
def test_a_wrong_parameter_is_named(copy, stage, key, value, sentence):
    copy.set(key, value)

    assert sentence in refuse(copy, *stage)


def test_params_that_are_no_yaml_are_named(copy):
    (copy.folder / "params.yaml").write_text("sources: [", encoding="utf-8")

    assert "params.yaml is not valid YAML" in refuse(copy, "dedup")


def test_an_unknown_setting_is_named(copy):
    done = copy.stage("filter", "stories", worker=4)

    assert done.returncode == 2
    assert "environment variable PEDIGREE_WORKER is unknown" in done.stderr


def test_a_missing_file_is_named(copy):
    copy.set("sources.stories.download.urls", ["corpus/novels.jsonl"])

    assert "corpus/novels.jsonl" in refuse(copy, "lock", "stories")
    assert "novels.jsonl is new, stories.jsonl is gone" in refuse(copy, "download", "stories")


def test_a_source_without_documents_after_filtering_is_named(copy):
    copy.set("sources.stories.filter.gopher_quality", {"min_words": 5000})

    sentence = refuse(copy, "filter", "stories")

    assert "sources.stories.filter" in sentence or "stories" in sentence
    assert not (copy.folder / "data/filter/stories" / MANIFEST).exists()


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("data/extract/stories/signals-00000.parquet", ("filter", "stories")),
        ("data/filter/stories/decisions-00000.parquet", ("dedup",)),
        ("data/dedup/stories/decisions-00000.parquet", ("tokenize", "stories")),
        ("data/extract/stories/documents-00000.parquet", ("tokenizer",)),
        ("data/tokenize/stories/tokens-00000.bin", ("pretrain",)),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage"])
def test_a_missing_or_truncated_shard_is_named(copy, file, stage, damage):
    path = copy.folder / file
    size = path.stat().st_size
    path.unlink()  # it may be a link into the cache
    if damage == "truncated":
        path.write_bytes(b"PAR1")
    elif damage == "garbage" and path.suffix == ".parquet":
        path.write_bytes(b"x" * size)

    assert file in refuse(copy, *stage)


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("models/tokenizer/tokenizer.json", ("tokenize", "stories")),
        ("models/base/model.safetensors", ("evaluate",)),
        ("data/extract/stories/manifest.json", ("filter", "stories")),
    ],
)
def test_a_damaged_file_is_named(copy, file, stage):
    path = copy.folder / file
    path.unlink()
    path.write_bytes(b"{")

    sentence = refuse(copy, *stage)

    assert file.rsplit("/", 1)[0] in sentence


def test_a_folder_of_a_source_that_was_taken_out_is_named(copy):
    copy.set("sources.scripts", None)
    copy.set("mixture", {"stories": 1})

    for stage in ("dedup", "tokenizer", "pretrain"):
        assert "scripts belongs to no source of params.yaml; remove the folder" in refuse(copy, stage)


FULL_DISK = """
mount -t tmpfs -o size=16k full {folder} && exec {python} -m stages.{stage}
"""


@pytest.mark.parametrize(
    ("folder", "stage"),
    [
        ("data/extract/stories", "extract stories"),
        ("data/tokenize/stories", "tokenize stories"),
        ("scratch", "pretrain"),
    ],
)
def test_a_full_disk_is_named_and_nothing_is_half_written(copy, folder, stage):
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("needs `unshare --mount` (run as root) to make a small disk")
    path = copy.folder / folder
    shutil.rmtree(path)
    path.mkdir()
    if stage != "pretrain":
        copy.set("sources.stories.extract.shard_bytes", 64_000_000)
    script = FULL_DISK.format(folder=path, python=sys.executable, stage=stage)

    done = copy.run("unshare", "--mount", "sh", "-c", script)

    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
