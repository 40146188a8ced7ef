"""Whether the records of a build hold: their names, their signatures, the outs, and the chain from sources to model.

records/, dvc.lock, the outs (working tree, else DVC's cache)  ->  what is broken, a sentence each
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rich.table import Table

from lineage.attestation.digests import Digests, below, md5_files, sha256_files, sha256_of
from lineage.attestation.records import MD5, Record, files, fitting, misfit, parse_record
from lineage.attestation.signature import Keys, Unverified, trusted_keys, verify
from lineage.attestation.statement import BUILD_TYPE, PROVENANCE, STATEMENT
from lineage.checkout import Missing, files_of, lay_out
from lineage.history import Build, Object, Stage, build_at
from lineage.plain import plain
from lineage.terminal import console

UNSIGNED = "unsigned"


@dataclass(frozen=True)
class Checked:
    """One stage of a build, and its record."""

    stage: str
    record: str | None  # the file; None if no record fits
    signature: str  # the first digits of the key, `unsigned`, or why it says nothing
    seen: bool | None  # whether the record's writer saw the stage run
    equal: tuple[str, ...]  # outs that have the digest that the record says
    absent: tuple[str, ...]  # outs that aren't here
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Check:
    """All records of a build."""

    build: str
    stages: tuple[Checked, ...]
    damaged: tuple[str, ...]  # of files in records/ that are not what they were

    @property
    def problems(self) -> list[str]:
        """What is broken, a sentence each; nothing if all holds."""
        return [*self.damaged, *(problem for stage in self.stages for problem in stage.problems)]

    @property
    def counts(self) -> dict[str, int]:
        """How many stages, records and outs of each kind there are."""
        found = [stage for stage in self.stages if stage.record]
        return {
            "stages": len(self.stages),
            "records": len(found),
            "unsigned": sum(stage.signature == UNSIGNED for stage in found),
            "unseen": sum(not stage.seen for stage in found),
            "equal": sum(len(stage.equal) for stage in self.stages),
            "absent": sum(len(stage.absent) for stage in self.stages),
            "problems": len(self.problems),
        }


def check(root: Path, build: Build, signed: bool = False) -> Check:
    """What the records in `root` are worth for `build`. Every byte of the outs is read that is here.

    `signed` demands a trusted signature of each record.

    Raises:
        Refusal: if a trusted key isn't one.
    """
    records, damaged = _intact(root)
    of_stage = fitting(records, build)
    keys = trusted_keys(root)
    stages = (_checked(root, build, stage, records, of_stage, keys, signed) for stage in build.stages.values())
    return Check(build.title, tuple(stages), tuple(damaged))


def _intact(root: Path) -> tuple[list[Record], list[str]]:
    """The records that are what they were when they were written; and a sentence for each other one."""
    records, damaged = [], []
    for path in files(root):
        name = path.relative_to(root).as_posix()
        try:
            record = parse_record(name, path.read_bytes())
            if record.has_its_name:
                records.append(record)
                continue
            why = "its bytes are not those that it is named by"
        except (ValueError, KeyError, TypeError, AttributeError):
            why = "it is no record any more"
        damaged.append(f"{name} was changed after it was written: {why}")
    return records, damaged


def _checked(
    root: Path,
    build: Build,
    stage: Stage,
    records: list[Record],
    of_stage: Mapping[str, Record],
    keys: Keys,
    signed: bool,
) -> Checked:
    record = of_stage.get(stage.name)
    if record is None:
        return Checked(stage.name, None, "", None, (), (), (_why_none(stage, records),))
    problems = list(_form(record))
    signature = UNSIGNED
    if record.envelope is not None:
        try:
            signature = verify(record.envelope, keys)[:12]
        except Unverified as error:
            signature = str(error)
            problems.append(f"{stage.name}: {record.path}: {error}")
    elif signed:
        problems.append(f"{stage.name}: {record.path} is unsigned")
    equal, absent = [], []
    for out in stage.outs.values():
        try:
            differing = list(_differing(root, build, out, record))
        except Missing:
            absent.append(out.path)
            continue
        problems += differing
        equal += [] if differing else [out.path]
    problems += _gaps(build, stage, of_stage)
    return Checked(stage.name, record.path, signature, record.seen, tuple(equal), tuple(absent), tuple(problems))


def _why_none(stage: Stage, records: list[Record]) -> str:
    others = [record for record in records if record.stage == stage.name]
    if not others:
        return f"{stage.name} has no record; `pedigree attest` writes one"
    newest = max(others, key=lambda record: record.finished or "")
    return f"{stage.name} has no record of this run: the newest, {newest.path}, is of {misfit(newest, stage)}"


def _form(record: Record) -> Iterator[str]:
    found = (record.statement.get("_type"), record.statement.get("predicateType"), record.definition.get("buildType"))
    for value, wanted in zip(found, (STATEMENT, PROVENANCE, BUILD_TYPE), strict=True):
        if value != wanted:
            yield f"{record.stage}: {record.path} says {value} where {wanted} belongs"


def _differing(root: Path, build: Build, out: Object, record: Record) -> Iterator[str]:
    """A sentence for `out`, and for each of its parts, if it isn't what `record` says.

    Raises:
        Missing: if it isn't here.
    """
    with tempfile.TemporaryDirectory(prefix="pedigree-out-") as folder:
        place = root / out.path
        if build.commit is not None or not place.exists():
            place = Path(folder, "out")
            lay_out(root, build, out, place)
        found = sha256_files(place, trusting=False)
        for path, digests in record.pieces.items():
            inner = PurePosixPath(path).relative_to(out.path).as_posix() if _is_in(path, out.path) else None
            if inner is None:
                continue
            actual = sha256_of(found if inner == "." else below(found, inner))
            if actual != digests.get("sha256"):
                yield (
                    f"{record.stage}: {path} has sha256 {actual[:12]}, but its record says "
                    f"{digests.get('sha256', 'nothing')[:12]}{_where(root, out, place)}"
                )
                return


def _where(root: Path, out: Object, place: Path) -> str:
    """Which file of `out` at `place` isn't as DVC knows it; nothing if that can't be said."""
    known = files_of(root, out)
    if not known or not out.md5.endswith(".dir"):
        return ""
    wanted = {name: file.parent.name + file.name for name, file in known.items()}
    found: Digests = md5_files(place)
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            return f": {name} is gone"
        if name not in wanted:
            return f": {name} doesn't belong there"
        if wanted[name] != found[name]:
            return f": {name} was changed"
    return ""


def _gaps(build: Build, stage: Stage, of_stage: Mapping[str, Record]) -> Iterator[str]:
    """A sentence for each input of `stage` that is not what another stage's record says that it wrote."""
    record = of_stage[stage.name]
    for before in build.stages.values():
        for path in _handed_over(before, stage):
            read, source = record.deps.get(path, {}), of_stage.get(before.name)
            if source is None:
                continue  # that stage has a sentence of its own
            wrote = source.pieces.get(path)
            if wrote is None:
                yield f"{stage.name}: it read {path}, which the record of {before.name} doesn't list by itself"
            elif differing := [name for name in ("sha256", MD5) if read.get(name) != wrote.get(name)]:
                name = differing[0]
                yield (
                    f"{stage.name}: it read {path} with {name} {read.get(name, 'unknown')[:12]}, "
                    f"but {before.name} wrote {wrote.get(name, 'unknown')[:12]}"
                )


def _handed_over(before: Stage, stage: Stage) -> Iterator[str]:
    """The paths of what `stage` read of what `before` wrote."""
    for dep in stage.deps:
        for out in before.outs:
            if _is_in(dep, out):
                yield dep
            elif _is_in(out, dep):
                yield out


def _is_in(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


def print_check(root: Path, revision: str | None, as_json: bool, signed: bool = False) -> int:
    """Print what the records of the build at `revision` are worth; the exit code, 1 if something is broken.

    Raises:
        Refusal: if there is no such build, or a trusted key isn't one.
    """
    found = check(root, build_at(root, revision), signed)
    if as_json:
        print(json.dumps(_to_json(found), indent=2, ensure_ascii=False))
    else:
        terminal = console()
        terminal.print(_table(found))
        for sentence in found.problems:
            terminal.print(f"broken: {plain(sentence)}", soft_wrap=True)
        terminal.print(summary_of(found), soft_wrap=True)
    return bool(found.problems)


def summary_of(found: Check) -> str:
    """What was found, in a sentence or two."""
    counts = found.counts
    kinds = Counter(UNSIGNED if stage.signature == UNSIGNED else "signed" for stage in found.stages if stage.record)
    listed = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    said = f"{counts['records']} of {counts['stages']} stages have a record" + (f" ({listed})" if listed else "")
    if counts["unseen"]:
        said += f", {counts['unseen']} of them written afterwards"
    said += f"; {counts['equal']} outs are what their records say"
    if counts["absent"]:
        said += f", {counts['absent']} are not here and were not compared (`dvc pull` fetches them)"
    chain = "the chain from the sources to the model is whole" if not found.problems else "something is broken"
    return f"{said}; {chain}."


def _to_json(found: Check) -> dict[str, Any]:
    stages = [
        {
            "stage": stage.stage, "record": stage.record, "signature": stage.signature, "seen": stage.seen,
            "equal": stage.equal, "absent": stage.absent, "problems": stage.problems,
        }
        for stage in found.stages
    ]  # fmt: skip
    return {"build": found.build, "counts": found.counts, "problems": found.problems, "stages": stages}


def _table(found: Check) -> Table:
    table = Table(title=f"Records of {plain(found.build)}", title_justify="left", title_style="bold")
    for column in ("stage", "record", "signature", "seen", "outs", "state"):
        table.add_column(column, overflow="fold")
    for stage in found.stages:
        outs = f"{len(stage.equal)} equal" + (f", {len(stage.absent)} absent" if stage.absent else "")
        table.add_row(
            plain(stage.stage),
            Path(stage.record).stem[:12] if stage.record else "none",
            plain(stage.signature),
            {True: "yes", False: "no", None: ""}[stage.seen],
            outs if stage.record else "",
            "broken" if stage.problems else "good",
        )
    return table
