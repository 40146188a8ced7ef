"""How the stages of a build ran, as far as records tell: durations, memory, machines, settings.

Build, its records  ->  Run for each stage, Environment for each kind of machine
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lineage.attestation import Record
from lineage.builds import Out
from lineage.history import Object, Stage


@dataclass(frozen=True)
class Run:
    """A stage, what it made, and its record; what no record tells is None."""

    stage: Stage
    record: Record | None

    @property
    def outs(self) -> list[Object]:
        """What it made."""
        return list(self.stage.outs.values())

    @property
    def grade(self) -> str:
        """The promise that is made for its outs: data, model or metric."""
        return Out(self.stage.name, "", "").grade

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        return duration(self.record)

    @property
    def peak_bytes(self) -> float | None:
        """The most memory that one of its processes had."""
        peak = byproduct(self.record, "resources").get("peakMemoryBytes") if self.record else None
        return peak if isinstance(peak, int | float) else None

    @property
    def attested(self) -> str:
        """What kind of record there is, in a phrase."""
        if self.record is None:
            return "no record"
        signed = "signed" if self.record.envelope else "not signed"
        return signed if self.record.seen else f"{signed}, written after the run"


@dataclass(frozen=True)
class Environment:
    """What records say of where and how stages ran, and which stages those are."""

    facts: dict[str, Any]
    stages: list[str]


def environments(runs: Iterable[Run]) -> list[Environment]:
    """The environments that records tell of, in the order of the stages."""
    found: dict[str, Environment] = {}
    for run in runs:
        if run.record is not None:
            facts = _facts(run.record)
            key = json.dumps(facts, sort_keys=True, default=str)
            found.setdefault(key, Environment(facts, [])).stages.append(run.stage.name)
    return list(found.values())


def _facts(record: Record) -> dict[str, Any]:
    """What a record says of the code, the machine and the settings; what it leaves out is unknown."""
    deps: list[dict[str, Any]] = record.definition["resolvedDependencies"]
    code = next((dep for dep in deps if dep["name"] == "git"), dict[str, Any]())
    clean = (code.get("annotations") or {}).get("clean")
    settings = record.definition.get("internalParameters")
    return {
        "commit": (code.get("digest") or {}).get("gitCommit", "unknown"),
        "tree": "unknown" if clean is None else "clean" if clean else "not clean",
        "requirements.lock": record.deps.get("requirements.lock", {}).get("sha256", "unknown"),
        **byproduct(record, "environment"),
        **(settings if isinstance(settings, Mapping) else {}),
        "Prefect run": record.run["metadata"].get("invocationId", "unknown"),
    }


def byproduct(record: Record, name: str) -> dict[str, Any]:
    """What a record notes under `name`; nothing if it doesn't."""
    noted = record.run.get("byproducts")
    for each in noted if isinstance(noted, list) else []:
        if isinstance(each, Mapping) and each.get("name") == name and isinstance(each.get("annotations"), Mapping):
            return dict(each["annotations"])
    return {}


def duration(record: Record | None) -> float | None:
    """The seconds that a stage took; None if there is no record, or nobody saw it run."""
    if record is None or record.began is None or record.finished is None:
        return None
    try:
        return (datetime.fromisoformat(record.finished) - datetime.fromisoformat(record.began)).total_seconds()
    except (TypeError, ValueError):
        return None


def spoken(seconds: float) -> str:
    """A duration as people write it, to the second: 48 s, 12 min 5 s, 3 h 20 min."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
