"""The runs of a build's stages as OpenLineage events (https://openlineage.io/spec/2-0-2/OpenLineage.json).

records of the stages, dvc.lock  ->  a START and a COMPLETE for each run  ->  a JSON object a line

The names are those of the events that a flow sends while it builds (flows/openlineage.py). An event has a time, so
a stage without a record, or whose record doesn't know when it ran, has none.
"""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

import polars as pl
from openlineage.client import event_v2 as events
from openlineage.client import facet_v2 as facets
from openlineage.client.serde import Serde

from lineage.attestation import Record
from lineage.export.facts import Facts, Source, public
from lineage.history import Object, Stage
from stages.documents import DECISION_SCHEMA, DOCUMENT_SCHEMA

NAMESPACE = "pedigree"  # of the jobs, and of what they write
FLOW = "build"  # the Prefect flow whose run a stage's run is part of
PRODUCER = "urn:pedigree:export"
CODE = PurePosixPath("stages")
SCHEMAS = {"extract": DOCUMENT_SCHEMA, "filter": DECISION_SCHEMA, "dedup": DECISION_SCHEMA}


def as_lines(facts: Facts) -> str:
    """The events of the build, in the order of their times, a JSON object a line; empty if no time is known."""
    told = [event for name, record in facts.records.items() for event in _of_run(facts, name, record)]
    return "".join(Serde.to_json(event) + "\n" for event in sorted(told, key=lambda event: event.eventTime))


def untold(facts: Facts) -> list[str]:
    """The stages of the build of which no record says when they ran."""
    return [name for name in facts.build.stages if not (record := facts.records.get(name)) or not _has_times(record)]


def run_id(record: Record) -> str:
    """The name of the run: of the Prefect run and the stage, else of the record."""
    if flow := flow_run(record):
        return str(uuid5(flow, record.stage))
    return str(uuid5(NAMESPACE_URL, f"{PRODUCER}:{record.path}"))


def flow_run(record: Record) -> UUID | None:
    """The Prefect run that the stage was part of, if it was."""
    try:
        return UUID(record.run["metadata"].get("invocationId"))
    except (ValueError, TypeError, AttributeError):
        return None


def _has_times(record: Record) -> bool:
    return bool(record.began and record.finished)


def _of_run(facts: Facts, name: str, record: Record) -> Iterator[events.RunEvent]:
    """START and COMPLETE of the run that `record` is of, if it knows their times."""
    if not record.began or not record.finished:
        return
    facets.set_producer(PRODUCER)
    stage = facts.build.stages[name]
    run, job = events.Run(run_id(record), _of_the_run(record, stage)), events.Job(NAMESPACE, name, _of_the_job(record))
    inputs, outputs = list(_inputs(facts, stage)), [_output(stage, out) for out in stage.outs.values()]
    for time, state, written in (
        (record.began, events.RunState.START, []),
        (record.finished, events.RunState.COMPLETE, outputs),
    ):
        yield events.RunEvent(
            eventTime=time, producer=PRODUCER, run=run, job=job, eventType=state, inputs=inputs, outputs=written
        )


def _of_the_run(record: Record, stage: Stage) -> dict[str, Any]:
    parameters = [
        facets.execution_parameters_run.ExecutionParameter(key, value=public(json.dumps(value, sort_keys=True)))
        for key, value in stage.params.items()
    ]
    found: dict[str, Any] = {
        "executionParameters": facets.execution_parameters_run.ExecutionParametersRunFacet(parameters)
    }
    if flow := flow_run(record):
        found["parent"] = facets.parent_run.ParentRunFacet(
            facets.parent_run.Run(str(flow)), facets.parent_run.Job(NAMESPACE, FLOW)
        )
    return found


def _of_the_job(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {
        "jobType": facets.job_type_job.JobTypeJobFacet("BATCH", "PEDIGREE", "STAGE"),
        "sourceCode": facets.source_code_job.SourceCodeJobFacet(
            "shell", record.definition["externalParameters"]["command"]
        ),
    }
    if commit := record.deps.get("git", {}).get("gitCommit"):
        # Records don't know where the repository lies; a SWHID (ISO/IEC 18670) names a commit wherever it does.
        found["sourceCodeLocation"] = facets.source_code_location_job.SourceCodeLocationJobFacet(
            "git", f"swh:1:rev:{commit}", version=commit
        )
    return found


def _inputs(facts: Facts, stage: Stage) -> Iterator[events.InputDataset]:
    """What the stage read but its code: outs of others by their names, however a dep cuts them; files; sources."""
    read: dict[str, Object] = {}
    for path, dep in stage.deps.items():
        found = {name: out for name, out in facts.build.outs.items() if _overlap(path, name)}
        read |= found or ({} if CODE in (PurePosixPath(path), *PurePosixPath(path).parents) else {path: dep})
    yield from (events.InputDataset(NAMESPACE, name, facets=_version(out)) for name, out in read.items())
    for source in facts.sources:
        if stage.name == f"download@{source.name}":
            yield from _fetched(source)


def _fetched(source: Source) -> Iterator[events.InputDataset]:
    """Where a source is from: packages by name and version, addresses."""
    for package in source.packages:
        version = facets.dataset_version_dataset.DatasetVersionDatasetFacet(str(package["version"]))
        yield events.InputDataset("pypi", package["name"], facets={"version": version})
    yield from (events.InputDataset(*address(url)) for url in source.urls)


def address(url: str) -> tuple[str, str]:
    """Namespace and name of a dataset that lies at `url`: `s3://bucket` and `a/b.jsonl`."""
    parts = urlsplit(url)
    if not parts.scheme:
        return "file", url
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/") or "/"


def _output(stage: Stage, out: Object) -> events.OutputDataset:
    statistics = facets.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        size=out.size, fileCount=out.files
    )
    described = _version(out)
    if schema := SCHEMAS.get(stage.kind):
        described["schema"] = _schema(schema)
    return events.OutputDataset(NAMESPACE, out.path, facets=described, outputFacets={"outputStatistics": statistics})


def _version(out: Object) -> dict[str, Any]:
    return {"version": facets.dataset_version_dataset.DatasetVersionDatasetFacet(out.md5)}


def _schema(schema: pl.Schema) -> facets.schema_dataset.SchemaDatasetFacet:
    fields = [facets.schema_dataset.SchemaDatasetFacetFields(name, str(dtype)) for name, dtype in schema.items()]
    return facets.schema_dataset.SchemaDatasetFacet(fields)


def _overlap(first: str, second: str) -> bool:
    one, other = PurePosixPath(first), PurePosixPath(second)
    return one.is_relative_to(other) or other.is_relative_to(one)
