"""All that differs between two builds.

Build, Build  ->  Difference
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lineage.diff.causes import Again, code_of, differences, param_differences, params_of, ran_again
from lineage.diff.code import File, changed_files
from lineage.diff.documents import Moved, counts, moved
from lineage.diff.results import Metric, Score, Vocabulary, metrics_of, scores, vocabulary_of
from lineage.documents import DEDUP
from lineage.history import LOCK, Build, build_at, builds, is_shallow
from lineage.objects import Objects, objects
from lineage.sources import digests, source_names
from stages.mixture import Epochs, in_epochs, parse_mixture
from stages.params import Refusal

TOKENIZER = "models/tokenizer"
T = TypeVar("T")
Pair = tuple[int | None, int | None]
Given = float | str  # what a source gives to the training: a share, or a phrase if some are in epochs


@dataclass(frozen=True)
class SourceChange:
    """A source that isn't the same in both builds."""

    name: str
    change: str  # added, removed, changed (its files), renamed
    was: str | None = None  # its old name, if it was renamed


@dataclass
class Difference:
    """What differs. `unknown` says what couldn't be compared, and why."""

    first: Build
    second: Build
    params: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # by full name: old, new
    code: list[str] = field(default_factory=list)  # what stages read and no stage wrote, with another digest
    files: list[File] = field(default_factory=list)  # the same as git has it, file by file
    sources: list[SourceChange] = field(default_factory=list)
    documents: dict[str, dict[str, Pair]] = field(default_factory=dict)  # source -> what became of them: old, new
    moved: list[Moved] = field(default_factory=list)
    mixture: dict[str, tuple[Given | None, Given | None]] = field(default_factory=dict)  # by source: old, new
    vocabulary: Vocabulary | None = None  # None if the tokenizer is the same
    scores: list[Score] = field(default_factory=list)
    again: list[Again] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def two_builds(root: Path, first: str | None, second: str | None) -> tuple[Build, Build]:
    """The builds to compare: `second` is by default the working tree's, `first` that of HEAD or, if it is the same,
    the one before.

    Raises:
        Refusal: if one isn't there.
    """
    new = build_at(root, second)
    if first is not None:
        return build_at(root, first), new
    if second is None and (head := _or_none(lambda: build_at(root, "HEAD"))) and head.lock != new.lock:
        return head, new
    history = builds(root)
    locks = [build.lock for build in history]
    older = history[locks.index(new.lock) + 1 :] if new.lock in locks else history
    if not older:
        shallow = "; this clone is shallow: `git fetch --unshallow` brings older ones" if is_shallow(root) else ""
        raise Refusal(f"there is no build before {new.title} to compare with; name one{shallow}")
    return older[0], new


def difference(root: Path, first: Build, second: Build) -> Difference:
    """All that differs between `first` and `second`."""
    found = Difference(first, second, param_differences(params_of(first), params_of(second)))
    found.code = list(differences(code_of(first), code_of(second)))
    found.files = changed_files(root, first, second, found.code)
    found.again = ran_again(first, second)
    found.sources = list(source_changes(first, second))
    found.mixture = _known(found, lambda: mixture_changes(first, second), {})
    with objects(root) as shelf:
        _documents(found, shelf)
        _results(found, shelf)
    return found


def source_changes(first: Build, second: Build) -> Iterator[SourceChange]:
    """The sources that are new, gone, renamed or have other files."""
    old, new = (_digests(build) for build in (first, second))
    was = {name: before for before in old if before not in new for name in new if _is_renamed(name, before, old, new)}
    for name in new:
        if name in was:
            yield SourceChange(name, "renamed", was[name])
        elif name not in old:
            yield SourceChange(name, "added")
        elif old[name] != new[name]:
            yield SourceChange(name, "changed")
    yield from (SourceChange(name, "removed") for name in old if name not in new and name not in was.values())


def _is_renamed(name: str, before: str, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    return name not in old and new[name] == old[before]


def _digests(build: Build) -> dict[str, str]:
    """The digest of the files of each source."""
    known = digests(build)
    return {name: known[name] for name in source_names(build)}


def _documents(found: Difference, shelf: Objects) -> None:
    """Count and name the documents that went, source by source."""
    same_ledgers = DEDUP in found.first.outs and found.first.outs.get(DEDUP) == found.second.outs.get(DEDUP)
    for old, new in _names(found):
        sides = [
            _known(found, partial(counts, shelf, build, name), dict[str, int]()) if name else {}
            for build, name in ((found.first, old), (found.second, new))
        ]
        if changed := differences_or_none(*sides):
            found.documents[str(new or old)] = changed
        if not same_ledgers:
            before, after = (found.first, old) if old else None, (found.second, new) if new else None
            found.moved += _known(found, partial(moved, shelf, before, after), list[Moved]())


def _names(found: Difference) -> Iterator[tuple[str | None, str | None]]:
    """The name of each source in the first and the second build; None where it isn't there."""
    was = {change.name: change.was for change in found.sources if change.was}
    old, new = (_digests(build) for build in (found.first, found.second))
    yield from ((was.get(name, name if name in old else None), name) for name in new)
    yield from ((name, None) for name in old if name not in new and name not in was.values())


def _results(found: Difference, shelf: Objects) -> None:
    """Compare tokenizers and metrics."""
    old, new = (build.outs.get(TOKENIZER) for build in (found.first, found.second))
    if old and new and old.md5 != new.md5:
        before, after = (
            _known(found, partial(vocabulary_of, shelf, build), set[str]()) for build in (found.first, found.second)
        )
        if before and after:
            gone, came = sorted(before - after), sorted(after - before)
            found.vocabulary = Vocabulary(len(before), len(after), tuple(gone), tuple(came))
    metrics = (
        _known(found, partial(metrics_of, shelf, build), dict[str, Metric]()) for build in (found.first, found.second)
    )
    found.scores = list(scores(*metrics))


def differences_or_none(old: Mapping[str, T], new: Mapping[str, T]) -> dict[str, tuple[T | None, T | None]]:
    """What the two have not alike; None where one has nothing."""
    pairs = {name: (old.get(name), new.get(name)) for name in {**old, **new}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def mixture_changes(first: Build, second: Build) -> dict[str, tuple[Given | None, Given | None]]:
    """What the sources that don't give the same to both trainings gave.

    Raises:
        Refusal: if one is neither a weight nor epochs.
    """
    old, new = (dict(_given(build)) for build in (first, second))
    return differences_or_none(old, new)


def _given(build: Build) -> Iterator[tuple[str, Given]]:
    """What each source gives to the training of `build`."""
    section = next((stage.params["mixture"] for stage in build.stages.values() if "mixture" in stage.params), None)
    if isinstance(section, Mapping):
        mixture = parse_mixture(section, f"{LOCK} of {build.title}")
        rest = " of the rest" if in_epochs(mixture) else ""
        for name, entry in mixture.items():
            if isinstance(entry, Epochs):
                yield name, f"{entry.count:g} epochs"
            else:
                yield name, f"{entry:.2%}{rest}" if rest else entry


def _known(found: Difference, read: Callable[[], T], otherwise: T) -> T:
    """What `read` gives; `otherwise` if it is refused, which is then said."""
    try:
        return read()
    except Refusal as refusal:
        if str(refusal) not in found.unknown:
            found.unknown.append(str(refusal))
        return otherwise


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except Refusal:
        return None
