"""An in-toto statement of one executed stage, with a SLSA provenance predicate.

stage of a dvc.lock, what it read and wrote, what was seen of its run  ->  statement  ->  canonical JSON

in-toto Statement v1 (https://github.com/in-toto/attestation/tree/main/spec/v1), SLSA Provenance v1
(https://slsa.dev/spec/v1.0/provenance). What isn't known is left out.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lineage.attestation.pieces import Piece
from lineage.attestation.records import AFTERWARDS, MD5, SEEN, plain
from lineage.history import Stage

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:pedigree:stage:v1"
UNSEEN = "written from dvc.lock after the run: begin, end, machine, packages and settings are unknown"


@dataclass(frozen=True)
class Run:
    """What was seen of the run of a stage; what nobody saw is None or empty."""

    began: str | None = None  # ISO 8601, UTC
    finished: str | None = None
    peak_bytes: int | None = None  # of memory, by the largest of its processes
    invocation: str | None = None  # the run of Prefect
    settings: Mapping[str, Any] = field(default_factory=dict)  # where and how fast: workers, world size
    machine: Mapping[str, Any] = field(default_factory=dict)  # Python, torch, platform, processor, GPU


@dataclass(frozen=True)
class Code:
    """The repository as it was when the record was written; what isn't known is None."""

    commit: str | None = None
    clean: bool | None = None  # nothing differs from the commit, but for dvc.lock and records
    lock_sha256: str | None = None  # of requirements.lock


def statement(
    stage: Stage, outs: Iterable[Piece], deps: Iterable[Piece], code: Code, run: Run | None, versions: Mapping[str, str]
) -> dict[str, Any]:
    """The statement that `stage` was executed; `run` is None if nobody saw it.

    Args:
        outs: what it wrote.
        deps: what it read.
        versions: of the programs that make this statement.
    """
    run_, builder = run or Run(), {"id": SEEN if run else AFTERWARDS, "version": dict(versions)}
    metadata = {"invocationId": run_.invocation, "startedOn": run_.began, "finishedOn": run_.finished}
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {"stage": stage.name, "command": stage.command, "params": plain(stage.params)},
        "internalParameters": dict(run_.settings),
        "resolvedDependencies": [*_of_code(code), *map(_described, deps)],
    }
    details = {"builder": builder, "metadata": _known(metadata), "byproducts": _byproducts(run_, seen=run is not None)}
    return {
        "_type": STATEMENT,
        "subject": [_described(piece) for piece in outs],
        "predicateType": PROVENANCE,
        "predicate": {"buildDefinition": definition, "runDetails": details},
    }


def canonical(value: Mapping[str, Any]) -> bytes:
    """`value` as JSON with sorted keys and no spaces: equal values are equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _described(piece: Piece) -> dict[str, Any]:
    described: dict[str, Any] = {"name": piece.path, "digest": _known({"sha256": piece.sha256, MD5: piece.md5})}
    return described | ({"annotations": {"partOf": piece.part_of}} if piece.part_of else {})


def _of_code(code: Code) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if code.commit:
        clean = {} if code.clean is None else {"annotations": {"clean": code.clean}}
        found.append({"name": "git", "digest": {"gitCommit": code.commit}} | clean)
    if code.lock_sha256:
        found.append({"name": "requirements.lock", "digest": {"sha256": code.lock_sha256}})
    return found


def _byproducts(run: Run, seen: bool) -> list[dict[str, Any]]:
    found = {
        "observation": {} if seen else {"seen": False, "means": UNSEEN},
        "environment": dict(run.machine),
        "resources": _known({"peakMemoryBytes": run.peak_bytes}),
    }
    return [
        {"name": name, "uri": f"urn:pedigree:{name}:v1", "annotations": values}
        for name, values in found.items()
        if values
    ]


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
