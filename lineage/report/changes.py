"""What changed from each build to the next: parameters, code, stages, metrics, as dvc.lock and the table have them.

Row, Row  ->  Change
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lineage.history import Build
from lineage.report.versions import Row, neighbours

CODE = ("stages/",)
FIGURES = ("documents", "tokens", "parameters", "flops", "bits_per_byte")


@dataclass(frozen=True)
class Change:
    """From one build to a later one. Values are None where a build has no such thing."""

    before: Row
    after: Row
    params: list[tuple[str, Any, Any]]  # full name, before, after
    code: list[str]  # paths
    inputs: list[tuple[str, list[str]]]  # stages that made something else, with which of their inputs differ
    figures: list[tuple[str, Any, Any]]


def changes(table: Sequence[Row]) -> list[Change]:
    """The change to each row of `table` from the one before it, the newest first."""
    return [change(before, after) for before, after in neighbours(table)]


def change(before: Row, after: Row) -> Change:
    """What differs between two builds."""
    old, new = (_params(row.build) for row in (before, after))
    first, second = (_code(row.build) for row in (before, after))
    return Change(
        before,
        after,
        params=[(name, *pair) for name, pair in _different(old, new)],
        code=[path for path, _ in _different(first, second)],
        inputs=list(_stages(before.build, after.build)),
        figures=[(name, getattr(before, name), getattr(after, name)) for name in FIGURES],
    )


def _different(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield name, (old.get(name), new.get(name))


def _params(build: Build) -> dict[str, Any]:
    """Every parameter that a stage of `build` was run with, by its full name."""
    found: dict[str, Any] = {}
    for stage in build.stages.values():
        for name, value in stage.params.items():
            found |= dict(_flat(name, value))
    return found


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, value


def _code(build: Build) -> dict[str, str]:
    """The digest of each code file or folder that a stage of `build` depended on."""
    deps = (dep for stage in build.stages.values() for dep in stage.deps.values())
    return {dep.path: dep.md5 for dep in deps if dep.path.startswith(CODE)}


def _stages(before: Build, after: Build) -> Iterator[tuple[str, list[str]]]:
    """The stages of either build whose outs differ, with the inputs that do."""
    for name in dict.fromkeys([*after.stages, *before.stages]):
        old, new = before.stages.get(name), after.stages.get(name)
        if old is None or new is None:
            yield name, ["new stage" if old is None else "gone"]
            continue
        if {out.path: out.md5 for out in old.outs.values()} == {out.path: out.md5 for out in new.outs.values()}:
            continue
        inputs = [path for path, _ in _different(_digests(old.deps), _digests(new.deps))]
        inputs += [f"parameter {key}" for key, _ in _different(dict(_all(old.params)), dict(_all(new.params)))]
        yield name, inputs


def _digests(objects: Mapping[str, Any]) -> dict[str, str]:
    return {path: found.md5 for path, found in objects.items()}


def _all(params: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        yield from _flat(name, value)
