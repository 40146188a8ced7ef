"""A sweep: the build of the last commit with other parameters, each in a clone of its own, kept as DVC experiments.

    values of some parameters  ->  one experiment for each combination of them, and its bits per byte

The clone shares the cache, the run-cache and the scratch, so only what the parameters change is computed, and nobody's
working folder is touched. DVC's own queue isn't used: its workers outlive whoever started them. A finished
experiment is an ordinary one: `dvc exp show`, `dvc exp apply NAME`.
"""

import fcntl
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from flows.lifetime.bound import Bound
from flows.stage import Tell, end_of
from flows.work import say
from stages.params import Refusal
from stages.settings import settings

FOLDER = Path(".dvc/tmp/sweep")
EVALUATION = "metrics/evaluate.json"
CONFIG = """\
[core]
    analytics = false
    check_update = false
[cache]
    dir = {cache}
"""


class ExperimentFailed(RuntimeError):
    """An experiment that didn't end well; the sentence of the stage that broke."""


@dataclass(frozen=True)
class Experiment:
    """One combination of values, by full parameter name (`pretrain.optimizer.learning_rate`)."""

    name: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What became of an experiment: done, failed or not run. Less bits per byte are better."""

    experiment: Experiment
    outcome: str
    seconds: float = 0.0
    bits_per_byte: float | None = None
    reason: str = ""

    @property
    def row(self) -> dict[str, object]:
        """It as the row of a table."""
        shown = {"experiment": self.experiment.name, **self.experiment.values, "outcome": self.outcome}
        return {**shown, "bits per byte": self.bits_per_byte, "seconds": round(self.seconds, 1), "reason": self.reason}


def parse_values(assignments: Sequence[str]) -> dict[str, list[Any]]:
    """What a user typed, `NAME=VALUE,VALUE`, as the values to try for each name; a list is written `[1, 2]`.

    Raises:
        Refusal: if one of them isn't of that form.
    """
    values: dict[str, list[Any]] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        try:
            listed = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError:
            listed = None
        if not (name and equals and listed):
            raise Refusal(f"{assignment!r} gives no values; write it as pretrain.optimizer.learning_rate=0.01,0.02")
        values[name] = listed
    return values


def combinations(values: Mapping[str, Sequence[Any]]) -> list[Experiment]:
    """One experiment for each combination of `values`, the last parameter changing first.

    Raises:
        Refusal: if there is nothing to try, or a value twice.
    """
    if not values or not all(values.values()):
        raise Refusal("a sweep needs values: name a parameter and what to try, as pretrain.seed=0,1")
    found = [
        Experiment(_name(values, combination), dict(zip(values, combination, strict=True)))
        for combination in product(*values.values())
    ]
    if len({experiment.name for experiment in found}) < len(found):
        raise Refusal("a sweep tries each value once: " + ", ".join(experiment.name for experiment in found))
    return found


def set_params(path: Path, values: Mapping[str, Any]) -> None:
    """Give the parameters in the file `path` other values; all else in it stays as it is written.

    Raises:
        Refusal: if a name leads through something that holds no parameters.
    """
    file = YAML()
    file.preserve_quotes, file.width = True, 1 << 16
    params = file.load(path.read_text(encoding="utf-8"))
    for name, value in values.items():
        *way, last = name.split(".")
        section = params
        for part in way:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise Refusal(f"{path.name} has no section {'.'.join(way) or name}; correct the parameter {name}")
        section[last] = value
    with path.open("w", encoding="utf-8") as out:
        file.dump(params, out)


def show(results: Sequence[Result]) -> None:
    """Print the table of the results, the best first."""
    table = Table(title="Experiments; `dvc exp apply NAME` takes one over", title_justify="left", title_style="bold")
    rows = [result.row for result in ranked(results)]
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(markup=False, highlight=False, emoji=False, width=160).print(table)


def ranked(results: Sequence[Result]) -> list[Result]:
    """The results with the fewest bits per byte first; those without an evaluation last."""
    return sorted(results, key=lambda result: (result.bits_per_byte is None, result.bits_per_byte or 0.0))


class Sweep:
    """The experiments of one sweep, on the commit that was HEAD when it began; `held` makes it the only one here."""

    def __init__(self, root: Path = Path()) -> None:
        self.root = root.resolve()
        self.base = _output(["git", "rev-parse", "HEAD"], self.root)
        self._lock = -1
        self._commands = Bound()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only sweep in this clone for the time of the block; what a killed one has left is removed.

        The children inherit the lock, so that the next sweep waits for those of a killed one, too.
        """
        folder = self.root / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("sweep", "waiting for another sweep in this clone to end")
                fcntl.flock(file, fcntl.LOCK_EX)
            self._lock = file.fileno()
            for left in [path for path in folder.iterdir() if path.is_dir()]:
                shutil.rmtree(left)
            try:
                yield
            except BaseException:  # a signal too: the children end before the lock is given up
                self._commands.stop()
                raise

    def run(self, experiment: Experiment, tell: Tell) -> Result:
        """Build it and keep it as a DVC experiment; what breaks it is the result's reason."""
        begin = time.monotonic()
        tell("started")
        try:
            value = self._run(experiment)
        except (Refusal, ExperimentFailed) as error:
            tell(f"failed: {error}")
            return Result(experiment, "failed", time.monotonic() - begin, reason=str(error))
        finally:
            shutil.rmtree(self._folder(experiment), ignore_errors=True)
        result = Result(experiment, "done", time.monotonic() - begin, value)
        tell(f"done in {result.seconds:.1f} s" + (f": {value} bits per byte" if value is not None else ""))
        return result

    def _run(self, experiment: Experiment) -> float | None:
        if self._commands.stopping:
            raise ExperimentFailed("stopped")
        clone = self._folder(experiment)
        self._clone(clone)
        set_params(clone / "params.yaml", experiment.values)
        log = self.root / "logs" / f"sweep-{experiment.name}.log"
        # What the commit has is taken from the cache at once, not stage by stage; what isn't there is built.
        self._child(["dvc", "checkout", "--quiet", "--allow-missing"], clone, log)
        if code := self._child(["pedigree", "run", "--local"], clone, log):
            raise ExperimentFailed(why(code, log))
        saved = log.with_suffix(".save.log")
        if code := self._child(["dvc", "exp", "save", "--force", "--name", experiment.name], clone, saved):
            raise ExperimentFailed(f"dvc exp save: {why(code, saved)}")
        saved.unlink()
        self._keep(experiment, clone)
        return _bits_per_byte(clone)

    def _clone(self, folder: Path) -> None:
        _output(["git", "clone", "--quiet", ".", str(folder)], self.root)
        _output(["git", "checkout", "--quiet", "--detach", self.base], folder)
        cache = _output([sys.executable, "-m", "dvc", "cache", "dir"], self.root)
        (folder / ".dvc/config.local").write_text(CONFIG.format(cache=cache), encoding="utf-8")

    def _child(self, command: Sequence[str], folder: Path, log: Path) -> int:
        """How a command ended in `folder`."""
        scratch = {} if settings().scratch_url else {"PEDIGREE_SCRATCH": str(self.root / settings().scratch_folder)}
        return self._commands.run(command, folder, log, scratch, [self._lock])

    def _keep(self, experiment: Experiment, clone: Path) -> None:
        """Bring the experiment's commit from the clone; its data are in the common cache."""
        refs = _output(["git", "for-each-ref", "--format=%(refname)", "refs/exps"], clone).split()
        [ref] = [ref for ref in refs if ref.endswith(f"/{experiment.name}")]
        _output(["git", "fetch", "--quiet", str(clone), f"+{ref}:{ref}"], self.root)

    def _folder(self, experiment: Experiment) -> Path:
        return self.root / FOLDER / experiment.name


def sweep_locally(values: Mapping[str, Sequence[Any]], at_once: int = 1) -> list[Result]:
    """The results of all combinations of `values`, in order, without Prefect; `at_once` run side by side."""
    experiments, sweep = combinations(values), Sweep()
    # In this order: on a signal the running experiments are ended before the pool is waited for.
    with ThreadPoolExecutor(at_once) as pool, sweep.held():
        return list(pool.map(lambda experiment: sweep.run(experiment, partial(say, experiment.name)), experiments))


def _name(values: Mapping[str, Sequence[Any]], combination: Sequence[Any]) -> str:
    """A name that git accepts: the last words of the parameters, as far as they part them, and the values."""
    last = [name.rpartition(".")[2] for name in values]
    words = last if len(set(last)) == len(last) else list(values)
    text = "-".join(f"{word}-{json.dumps(value)}" for word, value in zip(words, combination, strict=True))
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")


def why(code: int, log: Path) -> str:
    """The sentence by which a command ended, out of what it said."""
    lines = [line.strip() for line in end_of(log).splitlines() if line.strip()]
    sentences = [line.partition(": ")[2] for line in lines if line.lower().startswith("error: ")]
    return sentences[-1] if sentences else f"{lines[-1] if lines else 'it said nothing'} (exit code {code}; see {log})"


def _bits_per_byte(folder: Path) -> float | None:
    """The model's bits per byte in the evaluation of the build in `folder`; None if nothing was evaluated."""
    path = folder / EVALUATION
    if not path.exists():
        return None
    value: float = json.loads(path.read_text(encoding="utf-8"))["bits_per_byte"]["model"]
    return value


def _output(command: Sequence[str], folder: Path) -> str:
    """What a command prints, which must succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refusal(f"{' '.join(command[:2])} failed in {folder.name}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()
