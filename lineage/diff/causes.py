"""Why the stages of a build ran again: what each reads, and is told, beside what it was in another build.

two dvc.locks  ->  for each stage what changed, and the stages that it changed because of
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lineage.chain import in_order, overlap, writers
from lineage.history import Build, Object, Stage
from lineage.sources import source_names

Kind = Literal["parameter", "code", "file", "input", "command", "stage"]
ABSENT = "absent"


@dataclass(frozen=True)
class Cause:
    """One thing that made a stage run again."""

    kind: Kind
    what: str  # the parameter's full name, the path, the command
    old: Any
    new: Any
    because: tuple[str, ...] = ()  # of an input: the stages that wrote other bytes, or wrote it first


@dataclass(frozen=True)
class Again:
    """A stage of which the two builds don't have the same run."""

    stage: str
    causes: tuple[Cause, ...]
    changed: tuple[str, ...]  # the outs that are others now
    same: tuple[str, ...]  # those that came out equal

    @property
    def is_unexplained(self) -> bool:
        """Whether equal inputs gave other outs: another machine, or a stage that isn't pure."""
        return not self.causes


def ran_again(first: Build, second: Build) -> list[Again]:
    """The stages of `second` that `first` hasn't run alike, as they follow each other; then those that are gone."""
    again = []
    old, new = (_stages(build) for build in (first, second))
    for name in in_order(new.values()):
        stage, before = new[name], old.get(name)
        if before is None:
            again.append(Again(name, (Cause("stage", name, ABSENT, "new"),), tuple(stage.outs), ()))
            continue
        causes = tuple(_causes(before, stage, first, second))
        changed = tuple(path for path, out in stage.outs.items() if _md5(before.outs.get(path)) != out.md5)
        if causes or changed:
            same = tuple(path for path in stage.outs if path not in changed)
            again.append(Again(name, causes, changed, same))
    gone = (name for name in in_order(old.values()) if name not in new)
    return again + [Again(name, (Cause("stage", name, "there", "gone"),), (), ()) for name in gone]


def _stages(build: Build) -> dict[str, Stage]:
    """The stages of `build` by name, without those of sources that it hasn't any more."""
    names = {"", *source_names(build)}
    return {name: stage for name, stage in build.stages.items() if name.partition("@")[2] in names}


def _causes(before: Stage, stage: Stage, first: Build, second: Build) -> Iterator[Cause]:
    if before.command != stage.command:
        yield Cause("command", stage.command, before.command, stage.command)
    for name, (old, new) in param_differences(before.params, stage.params).items():
        yield Cause("parameter", name, old, new)
    for path, (old, new) in differences(_digests(before.deps), _digests(stage.deps)).items():
        sources = [*writers(second.stages.values(), path), *writers(first.stages.values(), path)]
        if sources:
            because = dict.fromkeys(each.name for each in sources if _wrote_otherwise(each.name, path, first, second))
            yield Cause("input", path, old, new, tuple(because))
        else:
            yield Cause("code" if path.startswith("stages/") else "file", path, old, new)


def _wrote_otherwise(name: str, path: str, first: Build, second: Build) -> bool:
    """Whether the stage wrote something else to `path` in one build than in the other."""
    sides = (build.stages.get(name) for build in (first, second))
    old, new = (
        {out: each.md5 for out, each in (stage.outs if stage else {}).items() if overlap(path, out)} for stage in sides
    )
    return old != new


def roots(stage: str, again: Mapping[str, Again]) -> list[Cause]:
    """What made `stage` run again in the end: no inputs, but what changed before anything ran, each once."""
    found: dict[tuple[str, str], Cause] = {}
    waiting, seen = [stage], set[str]()
    while waiting:
        name = waiting.pop(0)
        if name in seen or name not in again:
            continue
        seen.add(name)
        for cause in again[name].causes:
            if cause.because:
                waiting += cause.because
            else:
                found[cause.kind, cause.what] = cause
    return list(found.values())


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their full names; lists are leaves."""
    if not isinstance(value, Mapping) or (name and not value):
        return {name: value}
    return {key: leaf for part, each in value.items() for key, leaf in flat(each, f"{name}.{part}".strip(".")).items()}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What the two have not alike, in the order of `old`, then of `new`: ABSENT where one has nothing."""
    pairs = {name: (old.get(name, ABSENT), new.get(name, ABSENT)) for name in {**old, **new}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def param_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs of nested parameters, by full name. A section that was empty is no parameter once it has some."""
    before, after = flat(old), flat(new)
    sections = {name.rpartition(".")[0] for name in {**before, **after}}
    return {name: pair for name, pair in differences(before, after).items() if name not in sections}


def params_of(build: Build) -> dict[str, Any]:
    """Every parameter that a stage of `build` was given, by the names that dvc.yaml gives them."""
    return {name: value for stage in build.stages.values() for name, value in stage.params.items()}


def code_of(build: Build) -> dict[str, str]:
    """The digest of all that stages of `build` read and none wrote, by path: code, the takedown list, local files."""
    deps = {path: dep.md5 for stage in build.stages.values() for path, dep in stage.deps.items()}
    return {path: md5 for path, md5 in sorted(deps.items()) if not any(writers(build.stages.values(), path))}


def _digests(objects: Mapping[str, Object]) -> dict[str, str]:
    return {path: each.md5 for path, each in objects.items()}


def _md5(out: Object | None) -> str | None:
    return out.md5 if out else None
