"""The same build as a Prefect flow, with a server of its own."""

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort, LogSort
from prefect.logging.handlers import APILogWorker

from flows.build import build
from flows.dag import read_dag
from flows.stage import StageRefused

# DVC 3.67 reads the graph through a deprecated property of pygtrie's.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.mark.usefixtures("prefect")
def test_the_flow_has_a_task_for_each_stage_with_its_log_and_a_table(diamond):
    diamond.fate("left", "refuse")

    with pytest.raises(StageRefused, match="left: the toy is broken; mend it"):
        build()

    APILogWorker.drain_all(timeout=10)
    with get_client(sync_client=True) as client:
        tasks = {run.name: run.state_name for run in client.read_task_runs()}
        lines = [entry.message for entry in client.read_logs(sort=LogSort.TIMESTAMP_DESC)]
        [table] = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["build"])))
        [progress] = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["build-progress"]))
        )
    assert tasks == {
        "top": "Completed", "left": "Failed", "right": "Completed", "alone": "Completed", "bottom": "NotReady",
    }  # fmt: skip
    assert set(tasks) == {stage.name for stage in read_dag().stages}
    assert "error: the toy is broken; mend it" in lines
    assert '"stage": "bottom", "outcome": "not run"' in table.data
    assert progress.data == 100.0


@pytest.mark.usefixtures("prefect")
def test_a_run_links_to_the_records_that_it_left_and_to_the_review_site(diamond, monkeypatch):
    monkeypatch.setenv("PEDIGREE_FLOW_REVIEW_SITE", "https://review.example/pedigree/")

    build(["left"])

    with get_client(sync_client=True) as client:
        key = ArtifactFilter(key=ArtifactFilterKey(any_=["records"]))
        links, *_ = client.read_artifacts(artifact_filter=key, sort=ArtifactSort.CREATED_DESC)
    paths = [path.as_posix() for stage in ("top", "left") for path in Path("records", stage).glob("*.json")]
    assert len(paths) == 2
    assert all(f"`{path}`" in links.data for path in paths)
    assert links.data.endswith("[The review site](https://review.example/pedigree/)")


@pytest.mark.usefixtures("prefect")
def test_a_build_that_ends_well_is_the_flow_s_result(diamond):
    result = build(["alone"])

    assert [(ended.stage, ended.outcome) for ended in result.stages] == [("alone", "ran")]
