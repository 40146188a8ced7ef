"""Download of a crawl, and sources by reference: a sample of its files, read where they are, over faults."""

import gzip
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
import yaml
from fetching import download, fetched, forget, lock, sha256

from stages.documents import read_manifest
from stages.download.crawl import sample
from stages.download.params import CrawlParams
from stages.extract.__main__ import main as extract
from stages.extract.files import find_pieces
from stages.extract.params import ExtractParams
from stages.locked import differences
from stages.params import Refusal

pytestmark = pytest.mark.usefixtures("empty_project")

SNAPSHOT = "CC-MAIN-2026-05"
PATHS = [f"crawl-data/{SNAPSHOT}/segments/{number % 4}/warc/CC-{number:05d}.warc.gz" for number in range(40)]


def a_warc(number: int) -> bytes:
    """An archive of one page."""
    page = (
        f"<html><body><article><h1>Page {number}</h1><p>{'A sentence of the page. ' * 20}</p></article></body></html>"
    )
    answer = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(page)}\r\n\r\n{page}"
    head = (
        "WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\n"
        f"WARC-Target-URI: https://example.org/{number}\r\nContent-Length: {len(answer)}\r\n\r\n"
    )
    return gzip.compress(f"{head}{answer}\r\n\r\n".encode(), mtime=0)


def a_crawl(base: str, **more: object) -> dict[str, object]:
    return {"kind": "crawl", "base": base, "snapshot": SNAPSHOT, "count": 3, **more}


def put(files: dict[str, bytes]) -> None:
    """Put the crawl's listing and archives among the files of a server."""
    listing = "".join(f"{path}\n" for path in PATHS).encode()
    files[f"crawl-data/{SNAPSHOT}/warc.paths.gz"] = gzip.compress(listing, mtime=0)
    files |= {path: a_warc(number) for number, path in enumerate(PATHS)}


def documents(**section: object) -> pl.DataFrame:
    """What extract makes of the downloaded source."""
    params: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text())
    params["sources"]["texts"]["extract"] = section
    Path("params.yaml").write_text(yaml.safe_dump(params))
    arguments, sys.argv = sys.argv, ["extract", "texts"]
    try:
        extract()
    finally:
        sys.argv = arguments
    return pl.concat(pl.read_parquet(path) for path in sorted(Path("data/extract/texts").glob("documents-*")))


# ---- the sample -----------------------------------------------------------------------------------------------


def asked_for(**values: object) -> CrawlParams:
    return CrawlParams.model_validate({"kind": "crawl", "snapshot": SNAPSHOT, **values})


def test_a_larger_sample_has_all_of_a_smaller_one_in_whatever_order_the_paths_come():
    small, large = sample(PATHS, asked_for(count=5)), sample(PATHS[::-1], asked_for(count=12))

    assert (len(small), len(large)) == (5, 12)
    assert set(small) < set(large)
    assert large == sorted(large)


def test_a_fraction_is_about_that_share_and_another_seed_draws_others():
    paths = [f"path/{number}" for number in range(4000)]

    drawn = sample(paths, asked_for(fraction=0.25))

    assert 0.22 < len(drawn) / len(paths) < 0.28
    assert drawn != sample(paths, asked_for(fraction=0.25, seed=1))
    assert sample(paths, asked_for(fraction=1.0)) == sorted(paths)


# ---- the crawl ------------------------------------------------------------------------------------------------


def test_the_drawn_archives_are_downloaded_over_faults_and_read(web):
    put(web.files)
    web.statuses = [503, 200, 200, 429]
    web.breaks = [100_000, 200, 300]  # in the middle of archives

    folder = fetched(a_crawl(web.root))

    names = sorted(path.rpartition("/")[2] for path in sample(PATHS, asked_for(count=3)))
    assert sorted(path.name for path in folder.glob("*.gz")) == names
    assert web.breaks == []
    assert len(documents(format="warc")) == 3


def test_by_reference_only_the_listing_is_kept_and_extract_reads_the_same_documents(web):
    put(web.files)
    fetched(a_crawl(web.root))
    copied = documents(format="warc")

    folder = fetched(a_crawl(web.root, by_reference=True))
    web.breaks = [150, 200, 100]
    referenced = documents(format="warc")

    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    manifest = read_manifest(folder)
    assert manifest["shards"] == []
    assert sorted(manifest["references"][0]) == ["bytes", "etag", "path", "url"]
    assert referenced.equals(copied)
    assert web.breaks == []


def test_a_crawl_on_s3_is_read_by_reference_through_faults(monkeypatch, s3, faulty):
    for name, value in faulty.environment.items():
        monkeypatch.setenv(name, value)
    base = s3.url()
    files: dict[str, bytes] = {}
    put(files)
    for path in [f"crawl-data/{SNAPSHOT}/warc.paths.gz", *sample(PATHS, asked_for(count=3))]:
        with s3.filesystem().open(f"{base.removeprefix('s3://')}/{path}", "wb") as file:
            file.write(files[path])
    faulty.faults = {"busy": 0.1, "drop": 0.1}

    fetched(a_crawl(base, by_reference=True))
    found = documents(format="warc")

    assert len(found) == 3
    assert faulty.counts["pass"] > 6


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"snapshot": "CC-MAIN-1999-01"}, r"CC-MAIN-1999-01/warc.paths.gz: there is no such file"),
        ({"count": None}, "give count or fraction"),
        ({"fraction": 0.5}, "give count or fraction"),
        ({"count": None, "fraction": 1e-9}, "none of its 40 files is drawn; raise count or fraction"),
        ({"files": "wet"}, r"wet.paths.gz is no gzip"),
    ],
)
def test_a_crawl_that_cannot_be_had_is_refused_in_one_sentence(web, more, sentence):
    put(web.files)
    web.files[f"crawl-data/{SNAPSHOT}/wet.paths.gz"] = b"no gzip"

    with pytest.raises(Refusal, match=sentence):
        lock(a_crawl(web.root, **more))


def test_another_sample_than_was_locked_is_refused(web):
    put(web.files)
    lock(a_crawl(web.root))

    with pytest.raises(Refusal, match=r"CC-\d+.warc.gz is new.*run `pedigree lock texts`"):
        download(a_crawl(web.root, count=4))


# ---- by reference ---------------------------------------------------------------------------------------------


def parquet(texts: list[str]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), file, row_group_size=2)
    return file.getvalue()


TEXTS = [f"A text with the number {number}." for number in range(9)]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", LINES), ("a.jsonl.gz", gzip.compress(LINES, mtime=0)), ("a.parquet", parquet(TEXTS))],
)
@pytest.mark.parametrize("seekable", [True, False])
def test_a_file_is_read_where_it_is(web, name, content, etags, seekable):
    web.files[name], web.etags, web.seekable = content, etags, seekable
    fetched({"kind": "files", "urls": [web.url(name)], "by_reference": True})
    forget()
    web.breaks = [20]

    found = documents()

    assert found["text"].to_list() == TEXTS
    [entry] = read_manifest(Path("data/download/texts"))["references"]
    assert entry == {"path": name, "bytes": len(content), "url": web.url(name)} | (
        {"etag": sha256(content)[:8]} if etags else {"sha256": sha256(content)}
    )


@pytest.mark.parametrize(
    ("name", "content", "etags", "shards"),
    [
        ("a.parquet", parquet(TEXTS), True, 5),
        ("a.parquet", parquet(TEXTS), False, 1),  # it has to be read whole, so it is read once
        ("a.jsonl", LINES, True, 1),
        ("a.parquet", b"no parquet at all" * 9, True, 1),
    ],
)
def test_parquet_is_cut_where_it_is_as_only_its_end_is_read_for_that(web, name, content, etags, shards):
    web.files[name], web.etags = content, etags
    fetched({"kind": "files", "urls": [web.url(name)], "by_reference": True})
    expected = documents()["text"].to_list()
    web.breaks = [20] * 3

    found = documents(shard_bytes=1)

    assert found["text"].to_list() == expected
    assert len(list(Path("data/extract/texts").glob("documents-*"))) == shards


def test_a_server_out_of_reach_is_no_reason_to_cut_a_file_otherwise(web):
    web.files["a.parquet"] = parquet(TEXTS)
    fetched({"kind": "files", "urls": [web.url("a.parquet")], "by_reference": True})
    web.status = 503

    with pytest.raises(Refusal, match=r"a\.parquet: can't be read"):
        find_pieces(Path("data/download/texts"), ExtractParams(shard_bytes=1))


@pytest.mark.parametrize(("etags", "sentence"), [(True, "ETag is .*, locked is "), (False, "sha256 is .*, locked is ")])
def test_a_file_that_changed_meanwhile_stops_extract(web, etags, sentence):
    web.files["a.jsonl"], web.etags = LINES, etags
    fetched({"kind": "files", "urls": [web.url("a.jsonl")], "by_reference": True})
    web.files["a.jsonl"] = LINES.replace(b"A text", b"B text")

    with pytest.raises(Refusal, match=sentence):
        documents()

    assert not Path("data/extract/texts/manifest.json").exists()


def test_a_source_that_is_no_longer_taken_by_reference_is_locked_with_digests(web):
    web.files["a.jsonl"] = LINES
    section = {"kind": "files", "urls": [web.url("a.jsonl")]}
    lock({**section, "by_reference": True})

    with pytest.raises(Refusal, match=r"a.jsonl has .*, sha256 .* \(locked: .* ETag"):
        download(section)
    folder = fetched(section)

    assert (folder / "a.jsonl").read_bytes() == LINES


def test_a_file_that_is_gone_stops_extract_and_download(web):
    web.files["a.jsonl"] = LINES
    section = {"kind": "files", "urls": [web.url("a.jsonl")], "by_reference": True}
    fetched(section)
    web.files.clear()

    with pytest.raises(Refusal, match="there is no such file"):
        documents()
    with pytest.raises(Refusal, match="there is no such file"):
        download(section)


# ---- a bucket that keeps versions -----------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch, s3) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
    """A file system, and in it a bucket of the S3 server that keeps versions."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # another test's connections
    store, name = s3.filesystem(), f"versioned-{uuid4().hex}"
    store.mkdir(name)
    store.call_s3("put_bucket_versioning", Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    yield store, name
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("by_reference", [True, False])
@pytest.mark.parametrize("fate", ["overwritten", "removed"])
def test_a_versioned_bucket_still_has_what_was_locked(bucket, by_reference, fate):
    store, name = bucket
    store.pipe(f"{name}/a.jsonl", LINES)
    section = {"kind": "files", "urls": [f"s3://{name}/a.jsonl"], "by_reference": by_reference}
    [locked] = lock(section).files
    forget()
    if fate == "overwritten":
        store.pipe(f"{name}/a.jsonl", LINES.replace(b"A text", b"B text"))
    else:
        store.rm(f"{name}/a.jsonl")

    download(section)
    found = documents()

    assert locked.version_id
    assert found["text"].to_list() == TEXTS


def test_a_new_version_is_shown_and_taken_when_it_is_locked(bucket):
    store, name = bucket
    section = {"kind": "files", "urls": [f"s3://{name}/a.jsonl"], "by_reference": True}
    store.pipe(f"{name}/a.jsonl", LINES)
    before = lock(section)
    store.pipe(f"{name}/a.jsonl", LINES)
    again = lock(section)
    store.pipe(f"{name}/a.jsonl", LINES.replace(b"A text", b"B text"))
    after = lock(section)

    fetched(section)

    [first], [second], [third] = before.files, again.files, after.files
    assert differences(before, again) == [f"a.jsonl is version {second.version_id} (locked: {first.version_id})"]
    assert differences(again, after) == [
        f"a.jsonl has {len(LINES)} bytes, ETag {third.etag} (locked: {len(LINES)} bytes, ETag {second.etag})"
    ]
    assert len({before.digest, again.digest, after.digest}) == 3
    assert documents()["text"][0].startswith("B text")


@pytest.mark.parametrize("by_reference", [True, False])
def test_a_version_that_is_gone_is_named(bucket, by_reference):
    store, name = bucket
    store.pipe(f"{name}/a.jsonl", LINES)
    section = {"kind": "files", "urls": [f"s3://{name}/a.jsonl"], "by_reference": by_reference}
    [locked] = lock(section).files
    forget()
    store.pipe(f"{name}/a.jsonl", b"other")
    store.call_s3("delete_object", Bucket=name, Key="a.jsonl", VersionId=locked.version_id)

    with pytest.raises(Refusal, match=rf"a.jsonl \(version {locked.version_id}\): there is no such file"):
        download(section)


def test_a_bucket_without_versions_is_pinned_by_its_etag(monkeypatch, s3):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    url = s3.url("a.jsonl")
    s3.filesystem().pipe(url, LINES)

    [locked] = lock({"kind": "files", "urls": [url], "by_reference": True}).files

    assert (locked.version_id, locked.sha256) == (None, None)
    assert locked.etag
