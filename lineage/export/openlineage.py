"""The runs of a build's stages as OpenLineage events (https://openlineage.io/spec/2-0-2/OpenLineage.json).

records of the stages, dvc.lock  ->  a START and a COMPLETE for each run  ->  a JSON object a line

A flow sends the same events while it builds (flows/openlineage.py). An event has a time, so a stage without a record,
or whose record doesn't know when it ran, has none.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

import polars as pl
from openlineage.client import event_v2 as events
from openlineage.client import facet_v2 as facets
from openlineage.client.serde import Serde

from lineage.attestation import Record
from lineage.export.facts import Facts, addresses, public
from lineage.history import Build, Object, Stage
from stages.documents import DECISION_SCHEMA, DOCUMENT_SCHEMA

NAMESPACE = "pedigree"  # of the jobs, and of what they write
FLOW = "build"  # the Prefect flow whose run a stage's run is part of
PRODUCER = "urn:pedigree:export"
CODE = PurePosixPath("stages")
SCHEMAS = {"extract": DOCUMENT_SCHEMA, "filter": DECISION_SCHEMA, "dedup": DECISION_SCHEMA}


@dataclass(frozen=True)
class Run:
    """One run of a stage."""

    id: str  # a UUID
    stage: str  # filter@papers
    flow_run: UUID | None  # the Prefect run that it is part of
    commit: str | None  # of the code

    def started(self, time: str) -> events.RunEvent:
        """It begins at `time`, ISO 8601."""
        return self._event(time, events.RunState.START)

    def completed(self, time: str, build: Build, outcome: str | None = None) -> events.RunEvent:
        """It has ended well, and is in `build`. `outcome` says whether it ran, or its result was found."""
        stage = build.stages[self.stage]
        told = {"executionParameters": _parameters(stage)} | ({"tags": _tagged(outcome)} if outcome else {})
        outputs = [_output(stage, out) for out in stage.outs.values()]
        return self._event(
            time, events.RunState.COMPLETE, told, {"sourceCode": _command(stage)}, [*_inputs(build, stage)], outputs
        )

    def failed(self, time: str, reason: str) -> events.RunEvent:
        """It has failed."""
        error = facets.error_message_run.ErrorMessageRunFacet(public(reason), "Python")
        return self._event(time, events.RunState.FAIL, {"errorMessage": error})

    def aborted(self, time: str) -> events.RunEvent:
        """Somebody stopped it."""
        return self._event(time, events.RunState.ABORT)

    def _event(
        self,
        time: str,
        state: events.RunState,
        of_run: dict[str, Any] | None = None,
        of_job: dict[str, Any] | None = None,
        inputs: list[events.InputDataset] | None = None,
        outputs: list[events.OutputDataset] | None = None,
    ) -> events.RunEvent:
        facets.set_producer(PRODUCER)  # of the facets that say nothing else
        return events.RunEvent(
            eventTime=time,
            producer=PRODUCER,
            eventType=state,
            run=events.Run(self.id, self._parent() | (of_run or {})),
            job=events.Job(NAMESPACE, self.stage, self._code() | (of_job or {})),
            inputs=inputs or [],
            outputs=outputs or [],
        )

    def _parent(self) -> dict[str, Any]:
        if not self.flow_run:
            return {}
        run, job = facets.parent_run.Run(str(self.flow_run)), facets.parent_run.Job(NAMESPACE, FLOW)
        return {"parent": facets.parent_run.ParentRunFacet(run, job)}

    def _code(self) -> dict[str, Any]:
        found: dict[str, Any] = {"jobType": facets.job_type_job.JobTypeJobFacet("BATCH", "PEDIGREE", "STAGE")}
        if self.commit:
            # Where the repository lies isn't known; a SWHID (ISO/IEC 18670) names a commit wherever it does.
            found["sourceCodeLocation"] = facets.source_code_location_job.SourceCodeLocationJobFacet(
                "git", f"swh:1:rev:{self.commit}", version=self.commit
            )
        return found


def as_lines(facts: Facts) -> str:
    """The events of the build, in the order of their times, a JSON object a line; empty if no time is known."""
    told = [event for record in facts.records.values() for event in _of_record(facts.build, record)]
    return "".join(Serde.to_json(event) + "\n" for event in sorted(told, key=lambda event: event.eventTime))


def untold(facts: Facts) -> list[str]:
    """The stages of the build of which no record says when they ran."""
    records = facts.records
    return [name for name in facts.build.stages if name not in records or not [*_of_record(facts.build, records[name])]]


def run_id(stage: str, flow_run: UUID) -> str:
    """The name of the run of `stage` in a run of Prefect's."""
    return str(uuid5(flow_run, stage))


def uuid_of(text: object) -> UUID | None:
    """`text` as a UUID; None if it is none."""
    try:
        return UUID(str(text))
    except ValueError:
        return None


def _of_record(build: Build, record: Record) -> Iterator[events.RunEvent]:
    """START and COMPLETE of the run that `record` is of, if it knows their times."""
    if not record.began or not record.finished:
        return
    flow_run = uuid_of(record.run["metadata"].get("invocationId"))
    own = str(uuid5(NAMESPACE_URL, f"{PRODUCER}:{record.path}"))
    commit = record.deps.get("git", {}).get("gitCommit")
    run = Run(run_id(record.stage, flow_run) if flow_run else own, record.stage, flow_run, commit)
    yield run.started(record.began)
    yield run.completed(record.finished, build)


def _parameters(stage: Stage) -> facets.execution_parameters_run.ExecutionParametersRunFacet:
    return facets.execution_parameters_run.ExecutionParametersRunFacet(
        [
            facets.execution_parameters_run.ExecutionParameter(key, value=public(json.dumps(value, sort_keys=True)))
            for key, value in stage.params.items()
        ]
    )


def _tagged(outcome: str) -> facets.tags_run.TagsRunFacet:
    return facets.tags_run.TagsRunFacet([facets.tags_run.TagsRunFacetFields("outcome", outcome, "PEDIGREE")])


def _command(stage: Stage) -> facets.source_code_job.SourceCodeJobFacet:
    return facets.source_code_job.SourceCodeJobFacet("shell", stage.command)


def _inputs(build: Build, stage: Stage) -> Iterator[events.InputDataset]:
    """What the stage read but its code: outs of others by their names, however a dep cuts them; files; sources."""
    read: dict[str, Object] = {}
    for path, dep in stage.deps.items():
        found = {name: out for name, out in build.outs.items() if _overlap(path, name)}
        read |= found or ({} if CODE in (PurePosixPath(path), *PurePosixPath(path).parents) else {path: dep})
    yield from (events.InputDataset(NAMESPACE, name, facets=_version(out.md5)) for name, out in read.items())
    if stage.kind == "download":
        section = stage.params.get(f"sources.{stage.name.partition('@')[2]}.download", {})
        for package in section.get("packages", ()):
            yield events.InputDataset("pypi", package["name"], facets=_version(str(package["version"])))
        for url in addresses(section):
            yield events.InputDataset(*address(url))


def address(url: str) -> tuple[str, str]:
    """Namespace and name of a dataset that lies at `url`: `s3://bucket` and `a/b.jsonl`."""
    parts = urlsplit(url)
    if not parts.scheme:
        return "file", url
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/") or "/"


def _output(stage: Stage, out: Object) -> events.OutputDataset:
    size = facets.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        size=out.size, fileCount=out.files
    )
    described = _version(out.md5)
    if schema := SCHEMAS.get(stage.kind):
        described["schema"] = _schema(schema)
    return events.OutputDataset(NAMESPACE, out.path, facets=described, outputFacets={"outputStatistics": size})


def _version(text: str) -> dict[str, Any]:
    return {"version": facets.dataset_version_dataset.DatasetVersionDatasetFacet(text)}


def _schema(schema: pl.Schema) -> facets.schema_dataset.SchemaDatasetFacet:
    fields = [facets.schema_dataset.SchemaDatasetFacetFields(name, str(dtype)) for name, dtype in schema.items()]
    return facets.schema_dataset.SchemaDatasetFacet(fields)


def _overlap(first: str, second: str) -> bool:
    one, other = PurePosixPath(first), PurePosixPath(second)
    return one.is_relative_to(other) or other.is_relative_to(one)
