"""The runs of the ladder, and the build that they are to foresee."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plan.devices import DEVICES, Machines
from plan.plan import make_plan
from stages.params import Refusal

LADDER = Path("ladder/metrics")


@dataclass(frozen=True)
class Run:
    """A model that was trained, or is to be."""

    name: str
    parameters: int  # all of them, each tied tensor once
    tokens: int
    bits_per_byte: float | None  # on the held-out text; None: not known yet


def read_ladder(folder: Path = LADDER) -> list[Run]:
    """All finished runs of the ladder, the cheapest first.

    Raises:
        Refusal: if there are none.
    """
    runs = [_run(path) for path in sorted(folder.glob("*.json"))]
    if not runs:
        raise Refusal(f"{folder} holds no runs; train them by `dvc --cd ladder repro`")
    return sorted(runs, key=lambda run: (run.parameters * run.tokens, run.name))


def _run(path: Path) -> Run:
    values = _read(path)
    try:
        return Run(path.stem, values["parameters"], values["tokens"], values["bits_per_byte"])
    except (KeyError, TypeError):
        raise Refusal(f"{path} is no result of the ladder; remove it and run `dvc --cd ladder repro`") from None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refusal(f"{path} is not JSON ({error}); remove it and make it again") from None


def read_target(root: Path = Path()) -> Run:
    """The model of params.yaml, with its result if it has been trained and evaluated as it stands there."""
    plan = make_plan(None, Machines(1, DEVICES["h100"]))
    files = root / "metrics/pretrain.json", root / "metrics/evaluate.json"
    result = None
    if all(path.exists() for path in files):
        trained, scores = map(_read, files)
        if (trained["parameters"], trained["tokens"]) == (plan.shape.parameters, plan.tokens):
            result = scores["bits_per_byte"]["model"]
    return Run(plan.name, plan.shape.parameters, plan.tokens, result)
