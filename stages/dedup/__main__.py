"""Decide on the documents that the filters kept, of all sources: who is a duplicate, and who is held out.

    data/fingerprint, data/filter  ->  data/dedup: filter's decisions, and dedup's on what it kept

Memory is bound by the number of groups of duplicates, and 5 bytes for each kept document; all else is on disk, in
data/dedup itself while the stage runs (docs/duplicates.md). The methods: stages/dedup/__init__.py.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from stages.dedup.checks import Check
from stages.dedup.cuts import cut_spans
from stages.dedup.groups import Groups, choose, grown
from stages.dedup.params import DedupParams
from stages.dedup.runs import RANGE, Run, Shard, write_links, write_run
from stages.dedup.split import Kept, joined
from stages.dedup.verdicts import kept_of_run, write_decisions, write_verdicts
from stages.documents import fresh_folder, read_manifest, shard_paths, source_folders, write_manifest
from stages.minhash import FingerprintParams
from stages.params import PARAMS_FILE, Refusal, load_params
from stages.process import log, map_shards, run

FINGERPRINTS = Path("data/fingerprint")
FILTERED = Path("data/filter")
DECISIONS = Path("data/dedup")
WORK = DECISIONS / ".work"  # beside the decisions, so that workers on other machines see it, too


def shards_of_sources() -> list[Shard]:
    """Every shard of every source, in the order of params.yaml."""
    fingerprints, filtered = source_folders(FINGERPRINTS), source_folders(FILTERED)
    files = [
        (source, number, *paths)
        for source, folder in fingerprints.items()
        for number, paths in enumerate(
            zip(
                shard_paths(folder, "fingerprints"),
                shard_paths(folder, "signatures"),
                shard_paths(filtered[source], "decisions"),
                strict=True,
            )
        )
    ]
    return [Shard(place, *each) for place, each in enumerate(files)]


def check_names(params: DedupParams, made: FingerprintParams, sources: Sequence[str]) -> None:
    """Refuse names of what is no source, and cuts of spans that nobody asked fingerprint for."""
    named = {"dedup.priority": params.priority, "fingerprint.spans.sources": made.spans.sources if made.spans else ()}
    for key, names in named.items():
        if strangers := [name for name in names if name not in sources]:
            raise Refusal(
                f"{PARAMS_FILE}: {key} names {strangers[0]}, which is no source "
                f"(known: {', '.join(sorted(sources))}); take it out or correct its spelling"
            )
    if params.spans and not made.spans:
        raise Refusal(
            f"{PARAMS_FILE}: dedup.spans cuts spans, but fingerprint.spans doesn't say which; "
            f"add it, such as {{unit: line}}, or take dedup.spans out"
        )


@contextmanager
def work_folder() -> Iterator[Path]:
    """An empty folder for runs and verdicts, gone afterwards."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    try:
        yield WORK
    finally:
        shutil.rmtree(WORK, ignore_errors=True)


def write_runs(
    shards: Sequence[Shard], folder: Path, params: DedupParams, made: FingerprintParams
) -> tuple[list[Run], list[Path]]:
    """The runs of all shards, and the files of links between their candidates, in `folder`."""
    candidates = sum(read_manifest(path)["counts"]["kept"] for path in source_folders(FILTERED).values())
    ranges = -(-candidates // RANGE) or 1
    writing = partial(write_run, folder=folder, params=params, made=made, ranges=ranges)
    runs = map_shards(writing, shards, "dedup: keys")
    linking = partial(write_links, runs=runs, folder=folder, ranges=ranges, across_sources=params.across_sources)
    kinds = range(1 + made.bands if params.near else 1)
    if ranges == 1:  # the work of a moment, less than starting processes for it
        return runs, [linking(kind) for kind in kinds]
    return runs, map_shards(linking, kinds, "dedup: links")


def judge(links: Sequence[Path], check: Check) -> dict[str, Kept]:
    """Write the verdicts on every shard into the check's folder; what is kept of each source."""
    runs, folder, params = check.runs, check.folder, check.params
    forest = grown(sum(run.candidates for run in runs), links, check.holds)
    groups = Groups(forest, runs, folder)
    write_verdicts(groups, choose(groups, params), check, folder)
    by_source = {source: list(own) for source, own in groupby(runs, key=lambda run: run.shard.source)}
    if params.spans and check.made.spans:
        for source in filter(check.made.spans.of, by_source):
            cut_spans(source, by_source[source], folder, FINGERPRINTS, params.spans)
    return {source: joined(kept_of_run(run, folder) for run in own) for source, own in by_source.items()}


def check_train(source: str, kept: Kept) -> None:
    """Refuse a source without a document to train on."""
    if not kept.documents:
        read = read_manifest(FILTERED / source)["counts"]["kept"]
        raise Refusal(
            f"{PARAMS_FILE}: source {source} has no document to train on after dedup: all {read} "
            f"that its filter kept are duplicates of other sources' documents; take it out, set dedup.near to false, "
            f"or name it in dedup.priority"
        )


def counts_of(counted: Counter[str]) -> dict[str, Any]:
    """What becomes a manifest's counts: read, kept, dropped by rule, and the two splits."""
    splits = {name: counted[name] for name in ("held_out", "train")}
    dropped = {rule: number for rule, number in sorted(counted.items()) if rule not in splits}
    kept = sum(splits.values())
    assert kept + sum(dropped.values()) == counted.total()
    return {"read": counted.total(), "kept": kept, "dropped": dropped, **splits}


def write_source(source: str, counts: dict[str, Any]) -> None:
    """Finish the folder of one source."""
    write_manifest(DECISIONS / source, counts)
    log.info("dedup %s: %d read, %d kept, dropped: %s", source, counts["read"], counts["kept"], counts["dropped"])


def main() -> None:
    """Decide on the documents of all sources."""
    params, made = load_params(DedupParams, "dedup"), load_params(FingerprintParams, "fingerprint")
    shards = shards_of_sources()
    check_names(params, made, list(source_folders(FILTERED)))
    with work_folder() as folder:
        runs, links = write_runs(shards, folder, params, made)
        kept = judge(links, Check(runs, folder, params, made))
        for source in kept:  # all of them before the first is written
            check_train(source, kept[source])
        for source in kept:
            fresh_folder(DECISIONS / source)
        writing = partial(write_decisions, folder=folder, share=params.held_out, parent=DECISIONS)
        counted = map_shards(writing, [(run, kept[run.shard.source]) for run in runs], "dedup: decisions")
    for source in kept:
        own = (counts for counts, shard in zip(counted, shards, strict=True) if shard.source == source)
        write_source(source, counts_of(sum(own, Counter())))


if __name__ == "__main__":
    run(main)
