"""What another threshold would change: the same signals, decided by two sets of rules.

--set gopher_quality.min_words=30  ->  the filter section as it would be  ->  what is kept more, or no longer
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from lineage.rules.tally import NOTHING, Volume, shards_of, tables, tokens_per_byte, volume
from stages.filter import FilterParams, decide, rules
from stages.params import PARAMS_FILE, Refusal, parse_params, read_params, source_names
from stages.takedown import Takedown


@dataclass
class Change:
    """What is kept before and after, and by which rule the difference is dropped."""

    source: str
    tokens_per_byte: float | None
    before: Volume = NOTHING
    after: Volume = NOTHING
    more: dict[str, Volume] = field(default_factory=lambda: defaultdict(Volume))  # kept now, by what dropped it
    fewer: dict[str, Volume] = field(default_factory=lambda: defaultdict(Volume))  # dropped now, by what drops it


def section_of(root: Path, source: str) -> dict[str, Any]:
    """The filter section of `source` in params.yaml, as it stands.

    Raises:
        Refusal: if there is no such source.
    """
    path = root / PARAMS_FILE
    if source not in source_names(path):
        raise Refusal(f"{PARAMS_FILE} has no source {source}; name one of {', '.join(source_names(path))}")
    return (read_params(path)["sources"][source] or {}).get("filter") or {}


def as_set(section: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """`section` with each RULE=VALUE of `settings` (YAML; null switches off) in it.

    Raises:
        Refusal: if one is no such thing, or its rule set is off.
    """
    changed = copy.deepcopy(section)
    for setting in settings:
        key, equals, text = setting.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            equals = ""
        if not equals or not key:
            raise Refusal(f"--set {setting} is no RULE=VALUE; give one like gopher_quality.min_words=30")
        *groups, last = key.split(".")
        place = changed
        for group in groups:
            if place.get(group) is None:
                raise Refusal(f"--set {setting}: {group} is off; switch it on before, by --set {group}={{}}")
            place = place[group]
            if not isinstance(place, dict):
                raise Refusal(f"--set {setting}: {group} is {place!r}, which has nothing inside; give its own value")
        place[last] = value
    return changed


def change_of(root: Path, source: str, settings: Sequence[str], takedown: Takedown) -> Change:
    """What `settings` would change in `source`, as it is extracted in the project at `root`. Nothing is written.

    Raises:
        Refusal: if a setting isn't one, or the source isn't extracted.
    """
    where = f"{PARAMS_FILE}: sources.{source}.filter"
    now = section_of(root, source)
    before = rules(parse_params(FilterParams, now, where))
    after = rules(parse_params(FilterParams, as_set(now, settings), f"{where}, as set"))
    change = Change(source, tokens_per_byte(root, source))
    for table, _ in tables(shards_of(root, source), [*before, *after], takedown):
        answers = table.select("bytes").with_columns(
            before=decide(table, before)["rule"], after=decide(table, after)["rule"]
        )
        add(change, answers)
    return change


def add(change: Change, answers: pl.DataFrame) -> None:
    """Count documents by what dropped them `before` and `after`."""
    change.before += volume(answers.filter(pl.col("before").is_null()))
    change.after += volume(answers.filter(pl.col("after").is_null()))
    for (before, after), group in answers.group_by("before", "after"):
        if before is not None and after is None:
            change.more[str(before)] += volume(group)
        elif before is None and after is not None:
            change.fewer[str(after)] += volume(group)
