"""Decide by rules which documents are kept: from their signals, without their texts.

    signals of a source  ->  one decision for each document

The rules and their published thresholds are those of Gopher (Rae et al. 2021, arXiv:2112.11446,
appendix A1.1), C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2), FineWeb (Penedo et al. 2024,
arXiv:2406.17557, section 3.6) and, for code, The Stack (Kocetkov et al. 2022, arXiv:2211.15533), StarCoder
(Li et al. 2023, arXiv:2305.06161) and StarCoder2 (Lozhkov et al. 2024, arXiv:2402.19173). docs/rules.md defines the
signals. What takedown.jsonl names is dropped before any of them is asked. Decontamination alone reads texts: of
what all others keep.
"""

import argparse
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from stages.documents import fresh_folder, shard_paths, write_manifest
from stages.filter.decontamination import read_sets, wanted_of
from stages.filter.params import FilterParams
from stages.filter.rule import rules
from stages.filter.shards import filter_shard
from stages.params import PARAMS_FILE, Refusal, load_params
from stages.process import log, map_shards, run
from stages.takedown import RULE, TAKEDOWN, read_takedown

DOCUMENTS = Path("data/extract")
DECISIONS = Path("data/filter")


def counts_of(by_rule: Counter[str]) -> dict[str, Any]:
    """What becomes the manifest's counts: read, kept, and dropped by rule."""
    dropped = {rule: number for rule, number in sorted(by_rule.items()) if rule}
    return {"read": by_rule.total(), "kept": by_rule[""], "dropped": dropped}


def refuse_if_empty(source: str, counts: dict[str, Any]) -> None:
    """Refuse a source of which nothing is left, and name the rule that dropped most."""
    if counts["kept"]:
        return
    if not counts["read"]:
        raise Refusal(f"{DOCUMENTS / source} has no documents to filter; mend sources.{source}.extract in params.yaml")
    rule, number = max(counts["dropped"].items(), key=lambda item: item[1])
    if rule == RULE:
        raise Refusal(
            f"{TAKEDOWN} takes down {number} of all {counts['read']} documents of {source}, and none is left; "
            f"take {source} out of params.yaml"
        )
    raise Refusal(
        f"{PARAMS_FILE}: sources.{source}.filter drops all {counts['read']} documents of {source}, "
        f"{number} of them by {rule}; relax that rule or set it to null"
    )


def check_files(source: str, params: FilterParams) -> None:
    """Refuse a list or a task that isn't the pinned file before any shard is read."""
    rules(params, f"sources.{source}.filter")
    if params.decontamination is not None:
        wanted = wanted_of(read_sets(), params.decontamination.words)
        log.info("filter %s: decontamination against %d evaluation sets", source, len(set(wanted.tasks)))


def main() -> None:
    """Decide on the documents of the source named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="a name under `sources` in params.yaml")
    source = parser.parse_args().source
    params = load_params(FilterParams, f"sources.{source}.filter")
    check_files(source, params)
    folder = DOCUMENTS / source
    shards = list(zip(shard_paths(folder, "documents"), shard_paths(folder, "signals"), strict=True))
    target = fresh_folder(DECISIONS / source)
    by_rule: Counter[str] = Counter()
    decide_shard = partial(filter_shard, source=source, target=target, params=params, takedown=read_takedown())
    for counted in map_shards(decide_shard, shards, f"filter {source}"):
        by_rule += counted
    counts = counts_of(by_rule)
    assert counts["kept"] + sum(counts["dropped"].values()) == counts["read"]
    refuse_if_empty(source, counts)
    write_manifest(target, counts)


if __name__ == "__main__":
    run(main)
