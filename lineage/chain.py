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
    left, found = list(stages), list[str]()
    while left:
        outs = {stage.name: list(stage.outs) for stage in left}
        ready = [
            stage
            for stage in left
            if not any(
                overlap(dep, out) for dep in stage.deps for name in outs if name != stage.name for out in outs[name]
            )
        ] or left[:1]  # a circle can't be built: whatever this is, it is shown
        found += [stage.name for stage in ready]
        left = [stage for stage in left if stage not in ready]
    return found
