"""The records of the executed stages, as they stand in a project.

    records/<stage, with - for @>/<sha256 of the file's bytes>.json  ->  Record

A file is an in-toto statement, or a DSSE envelope around one if it is signed.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from lineage.history import Build, Stage
from stages.params import Refusal

RECORDS = "records"
KEYS = f"{RECORDS}/keys"
MD5 = "dvcMd5"  # DVC's digest, as a digest of in-toto
DIGITS = 64  # of a sha256
SEEN, AFTERWARDS = "urn:pedigree:flow:v1", "urn:pedigree:attest:v1"  # who says so: who ran it, or who came later


@dataclass(frozen=True)
class Record:
    """One attestation. `envelope` is None if it isn't signed; nothing here says that a signature is valid."""

    path: str  # records/filter-papers/3a7c….json
    data: bytes
    statement: Mapping[str, Any]
    envelope: Mapping[str, Any] | None = None

    @property
    def stage(self) -> str:
        """The stage that was executed: filter@papers."""
        return str(self.definition["externalParameters"]["stage"])

    @property
    def definition(self) -> Mapping[str, Any]:
        """What was asked for: SLSA's buildDefinition."""
        return self.statement["predicate"]["buildDefinition"]  # type: ignore[no-any-return]

    @property
    def run(self) -> Mapping[str, Any]:
        """What happened: SLSA's runDetails."""
        return self.statement["predicate"]["runDetails"]  # type: ignore[no-any-return]

    @cached_property
    def outs(self) -> dict[str, dict[str, str]]:
        """The digests of its outs, by path: sha256 and dvcMd5."""
        return {subject["name"]: dict(subject["digest"]) for subject in self.statement["subject"] if not _part(subject)}

    @cached_property
    def pieces(self) -> dict[str, dict[str, str]]:
        """The same of its outs and of those folders in them that can be read alone (data/dedup/papers)."""
        return {subject["name"]: dict(subject["digest"]) for subject in self.statement["subject"]}

    @cached_property
    def deps(self) -> dict[str, dict[str, str]]:
        """The digests of what it read, by path; commit and lock are among them, as `git` and `requirements.lock`."""
        return {dep["name"]: dict(dep.get("digest", {})) for dep in self.definition["resolvedDependencies"]}

    @property
    def began(self) -> str | None:
        """When the stage began, ISO 8601; None if nobody saw it."""
        return _text(self.run["metadata"].get("startedOn"))

    @property
    def finished(self) -> str | None:
        """When the stage ended, ISO 8601; None if nobody saw it."""
        return _text(self.run["metadata"].get("finishedOn"))

    @property
    def has_its_name(self) -> bool:
        """Whether the file is named by the digest of its bytes, as it was when it was written."""
        return Path(self.path).stem == sha256(self.data).hexdigest()

    @property
    def seen(self) -> bool:
        """Whether who wrote it saw the stage run; else it was written later, from dvc.lock."""
        return bool(self.run["builder"]["id"] == SEEN)


def read_records(root: Path) -> list[Record]:
    """Every record in `root`, by path.

    Raises:
        Refusal: if a file there is no record.
    """
    return [read_record(root, path) for path in files(root)]


def files(root: Path) -> list[Path]:
    """The files in `root` that are called as records are. Versions have records of their own (records/base)."""
    return [path for path in sorted((root / RECORDS).glob("*/*.json")) if len(path.stem) == DIGITS]


def records_of(root: Path, build: Build) -> dict[str, Record]:
    """By stage, the record of its run in `build`: that command, these parameters, inputs and outs.

    Of several, the one that ended last. A stage that has none is left out.
    """
    return fitting(read_records(root), build)


def fitting(records: Iterable[Record], build: Build) -> dict[str, Record]:
    """By stage, in the order of `build`, the newest of `records` that fits it."""
    newest: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record.finished or ""):
        stage = build.stages.get(record.stage)
        if stage and fits(record, stage):
            newest[stage.name] = record
    return {name: newest[name] for name in build.stages if name in newest}


def fits(record: Record, stage: Stage) -> bool:
    """Whether `record` is of a run of `stage` as it is: command, parameters, and DVC's digest of all it read, wrote."""
    return misfit(record, stage) is None


def misfit(record: Record, stage: Stage) -> str | None:
    """The first thing in which `record` is of another run of `stage`, in a few words; None if it fits."""
    asked = record.definition["externalParameters"]
    if asked["command"] != stage.command:
        return "another command"
    if asked["params"] != plain(stage.params):
        return "other parameters"
    for path, dep in stage.deps.items():
        if record.deps.get(path, {}).get(MD5) != dep.md5:
            return f"another {path}, which it read"
    for path, out in stage.outs.items():
        if record.outs.get(path, {}).get(MD5) != out.md5:
            return f"another {path}, which it wrote"
    return None


def plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` as JSON gives them back."""
    found: dict[str, Any] = json.loads(json.dumps(params, default=str))
    return found


def read_record(root: Path, path: Path) -> Record:
    """The record in the file `path`.

    Raises:
        Refusal: if it is none.
    """
    data, name = path.read_bytes(), path.relative_to(root).as_posix()
    try:
        return parse_record(name, data)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise Refusal(
            f"{name} is not a record ({type(error).__name__}); restore it from git, or remove it and run "
            "`pedigree attest`"
        ) from None


def parse_record(name: str, data: bytes) -> Record:
    """The record whose file is called `name` and holds `data`.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: if it is none.
    """
    content = json.loads(data)
    envelope = content if "payload" in content else None
    statement = json.loads(base64.b64decode(content["payload"], validate=True)) if envelope else content
    record = Record(name, data, statement, envelope)
    # Asked for now: whoever reads a record later needs not be ready for one that is something else.
    _ = record.stage, record.outs, record.deps, record.began, record.finished, record.definition["externalParameters"]
    return record


def content_path(stage: str, data: bytes) -> str:
    """Where a record of `stage` whose file holds `data` stands: records/filter-papers/3a7c….json."""
    return f"{RECORDS}/{stage.replace('@', '-').replace('/', '-')}/{sha256(data).hexdigest()}.json"


def _part(described: Mapping[str, Any]) -> str | None:
    """The out that holds what is described, if it is only a part of one."""
    return (described.get("annotations") or {}).get("partOf")


def _text(value: object) -> str | None:
    return None if value is None else str(value)
