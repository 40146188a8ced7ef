"""Which stage of a build waits for which: its dvc.lock says so by paths.

a stage's dep data/filter  <-  the stages that write data/filter/papers, data/filter/wiki
"""

from collections.abc import Iterable, Iterator

from lineage.history import Stage


def overlap(one: str, other: str) -> bool:
    """Whether one path is the other, or in it."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def writers(stages: Iterable[Stage], path: str) -> Iterator[Stage]:
    """Those of `stages` that write `path`, or a part of it, or what it is part of."""
    return (stage for stage in stages if any(overlap(path, out) for out in stage.outs))


def downstream(stages: Iterable[Stage], names: Iterable[str]) -> list[str]:
    """The stages `names`, and all that wait for one of them, in the order in which they can run."""
    found, waiting = set(names), True
    known = list(stages)
    while waiting:
        before = len(found)
        outs = [out for stage in known if stage.name in found for out in stage.outs]
        found |= {stage.name for stage in known if any(overlap(dep, out) for dep in stage.deps for out in outs)}
        waiting = len(found) > before
    return [name for name in in_order(known) if name in found]


def in_order(stages: Iterable[Stage]) -> list[str]:
    """The names of `stages`, each after those that it waits for; else in the order given."""
    known = list(stages)
    above = {stage.name: {other.name for other in known if _waits(stage, other)} for stage in known}
    found: dict[str, None] = {}
    while left := [name for name in above if name not in found]:
        ready = [name for name in left if above[name] <= found.keys()]
        found |= dict.fromkeys(ready or left[:1])  # a circle can't be built: whatever this is, it is shown
    return list(found)


def _waits(stage: Stage, other: Stage) -> bool:
    return stage.name != other.name and any(overlap(dep, out) for dep in stage.deps for out in other.outs)
