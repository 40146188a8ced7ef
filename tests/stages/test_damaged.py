"""Thousands of damaged files go through extract: none is an exception, none costs another, all is accounted for."""

import resource
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from damaged import CASES, Case, damaged_case

from stages.documents import write_manifest
from stages.extract.files import find_pieces
from stages.extract.params import ExtractParams
from stages.extract.shards import extract_shard

SHARD = 60
MAX_DOCUMENT_BYTES = 50_000
SECONDS_A_SHARD = 20.0  # of processor time; it takes 0.5
MEGABYTES = 400


def params_of(format_: str) -> ExtractParams:
    """auto, where the ending tells the format."""
    chosen = format_ if format_ in ("mediawiki", "jats") else "auto"
    return ExtractParams.model_validate({"format": chosen, "max_document_bytes": MAX_DOCUMENT_BYTES})


def extracted(folder: Path, cases: list[Case], params: ExtractParams) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Documents and unreadable records of `cases`, as extract writes them."""
    inside, target = folder / "in", folder / "out"
    for each in (inside, target):
        each.mkdir(parents=True)
    for case in cases:
        (inside / case.name).write_bytes(case.content)
    write_manifest(inside, {})
    pieces = find_pieces(inside, params)
    counts = extract_shard((0, pieces), source="damaged", params=params, folder=inside, target=target)
    documents = pl.read_parquet(target / "documents-00000.parquet")
    unreadable = pl.read_parquet(target / "unreadable-00000.parquet")
    assert counts["read"] == len(documents) + len(unreadable)
    assert dict(counts["dropped"]) == dict(Counter(unreadable["rule"]))
    return documents, unreadable


def shards() -> list[list[Case]]:
    """All cases, those of one format parameter together."""
    found: dict[str, list[Case]] = {}
    for number in range(CASES):
        case = damaged_case(number)
        found.setdefault(params_of(case.format).format, []).append(case)
    return [cases[at : at + SHARD] for cases in found.values() for at in range(0, len(cases), SHARD)]


@pytest.fixture(scope="module")
def all_shards() -> list[list[Case]]:
    return shards()


def test_the_cases_are_at_least_two_thousand_and_the_same_each_time(all_shards):
    cases = [case for shard in all_shards for case in shard]

    assert len({case.name for case in cases}) == len(cases) >= 2000
    assert len({case.story for case in cases}) > 1000
    assert damaged_case(1234) == damaged_case(1234)


def test_damaged_files_cost_neither_an_exception_nor_another_file_nor_time_nor_memory(tmp_path, all_shards):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest, silent = 0.0, []

    for number, cases in enumerate(all_shards):
        begin = time.process_time()
        documents, unreadable = extracted(tmp_path / str(number), cases, params_of(cases[0].format))
        slowest = max(slowest, time.process_time() - begin)
        assert documents["id"].n_unique() == len(documents)
        assert documents["text"].str.len_bytes().max() <= MAX_DOCUMENT_BYTES
        told = {origin.partition("!")[0].partition("#")[0] for origin in unreadable["origin"]}
        silent += [case.story for case in cases if case.is_cut and case.content and case.name not in told]

    assert silent == []
    assert slowest < SECONDS_A_SHARD
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES


def test_what_is_read_of_damaged_files_is_the_same_each_time_and_beside_any_others(tmp_path, all_shards):
    cases = all_shards[3]

    once = extracted(tmp_path / "once", cases, params_of(cases[0].format))
    alone = [extracted(tmp_path / case.name, [case], params_of(case.format)) for case in cases[:20]]

    again = extracted(tmp_path / "again", cases, params_of(cases[0].format))
    assert [one.equals(two) for one, two in zip(once, again, strict=True)] == [True, True]
    for documents, unreadable in alone:
        assert documents["id"].is_in(once[0]["id"].implode()).all()
        assert unreadable["origin"].is_in(once[1]["origin"].implode()).all()
