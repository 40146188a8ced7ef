"""The DAG as dvc.yaml has it. There is no second list of stages anywhere."""

from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from graphlib import TopologicalSorter
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from stages.params import Refusal


@dataclass(frozen=True)
class Stage:
    """One stage, `foreach` resolved: `extract@papers`."""

    name: str
    upstream: tuple[str, ...]
    stale: bool  # DVC would run it now, even if nothing before it changes

    @property
    def kind(self) -> str:
        """The name before the @: what all sources' stages of this kind share."""
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class Dag:
    """All stages, each after those it waits for."""

    stages: tuple[Stage, ...]

    def in_order(self, targets: Iterable[str] = ()) -> tuple[Stage, ...]:
        """The stages that `targets` need, themselves included; all of them if none is given.

        A target is a stage (`extract@papers`) or a kind (`extract`: that of every source).

        Raises:
            Refusal: if a target is neither.
        """
        wanted = {name for target in targets for name in self._named(target)}
        if not wanted:
            return self.stages
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted.update(stage.upstream)
        return tuple(stage for stage in self.stages if stage.name in wanted)

    def _named(self, target: str) -> list[str]:
        found = [stage.name for stage in self.stages if target in (stage.name, stage.kind)]
        if not found:
            known = [stage.name for stage in self.stages]
            near = get_close_matches(target, known, n=3) or known
            raise Refusal(f"dvc.yaml has no stage {target}; name one of its stages (such as {', '.join(near)})")
        return found


def read_dag(root: Path = Path()) -> Dag:
    """The DAG of the project at `root`, and which of its stages are out of date.

    DVC is asked once for all stages, so that a build with nothing to do is as fast as `dvc status`.

    Raises:
        Refusal: if there is no DVC project, or its dvc.yaml or params.yaml don't make a DAG.
    """
    # Waiting for the lock: a neighbour's commit of a large out holds it longer than DVC's 3 seconds.
    # From within: DVC names a stage by the path from here to its file, or by its name alone if that is here.
    with _refusing(), chdir(root), Repo(_wait_for_lock=True) as repo:
        graph, stale = repo.index.graph, repo.status()
        upstream = {stage.addressing: [before.addressing for before in graph.successors(stage)] for stage in graph}
    order = TopologicalSorter(upstream).static_order()
    return Dag(tuple(Stage(name, tuple(sorted(upstream[name])), name in stale) for name in order))


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except DvcException as error:
        reasons = [str(each) for each in (error, error.__cause__) if each and str(each)]
        raise Refusal(f"DVC can't read the project: {' '.join(': '.join(reasons).split())}") from error
