"""The build as a Prefect flow: a task for each stage of dvc.yaml."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.task_runners import ThreadPoolTaskRunner

from flows.dag import Stage
from flows.lifetime.lease import building
from flows.lifetime.reaper import reap
from flows.lifetime.worker import end_with_worker
from flows.notify import tell_failure
from flows.settings import flow_settings
from flows.stage import Ended
from flows.work import Build, Work, say


@flow(
    name="build",
    task_runner=ThreadPoolTaskRunner(),  # type: ignore[arg-type]
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
)
def build(targets: list[str] | None = None, push: bool = True) -> Build:
    """Bring `targets` (default: every stage) up to date, side by side where the DAG allows.

    What it makes goes to the default remote, if there is one, unless `push` is off.
    """
    end_with_worker()
    run_log = get_run_logger()

    def tell(line: str) -> None:
        run_log.info(line)
        say("build", line)

    with building(Path(), tell, flow_run.get_id(), get_current_settings().api.url):
        reap(Path(), tell)
        return run_stages(Work(targets, push=push))


# They are JSON as they are; what makes others so (FastAPI) takes longer to import than a build with nothing to do.
build.serialize_parameters = dict  # type: ignore[method-assign, assignment]


def run_stages(work: Work) -> Build:
    """Each stage of `work` as a task of the flow that calls this; progress and outcomes as artifacts of it.

    Raises:
        StageRefused, StageFailed: if a stage is not up to date at the end.
    """
    if work.up_to_date:
        return _pass_by(work)
    done: dict[str, PrefectFuture[Ended]] = {}
    try:
        for stage in work.stages:
            done[stage.name] = run_stage.with_options(name=stage.name, task_run_name=stage.name).submit(
                stage, work, wait_for=[done[name] for name in stage.upstream], return_state=False
            )
        show_progress(list(done.values()))
    except BaseException:  # a signal too: the stages end before the flow does
        work.stop()
        raise
    finally:
        show_stages(work.build())
        show_records(work.records)
    return work.finished()


def _pass_by(work: Work) -> Build:
    """Say of each stage that it is cached: a task that does nothing would cost more than to find that out."""
    for stage in work.stages:
        work.do(stage, partial(say, stage.name))
    show_stages(work.build())
    return work.finished()


@task(persist_result=False)
def run_stage(stage: Stage, work: Work) -> Ended:
    """Bring `stage` up to date. It is tried again for causes outside it only, by `Work`, which can be stopped."""
    run_log = get_run_logger()

    def tell(line: str) -> None:
        run_log.info(line)
        say(stage.name, line)

    return work.do(stage, tell)


def show_progress(stages: list[PrefectFuture[Ended]]) -> None:
    """Wait for all `stages`, and keep a progress artifact at their share that is done."""
    show = _Shown("progress")
    progress = show(create_progress_artifact, 0.0, key="build-progress", description="Stages that are done.")
    for count, _ in enumerate(as_completed(stages), start=1):
        show(update_progress_artifact, progress, 100 * count / len(stages))


def show_stages(build: Build) -> None:
    """Leave the table of the stages in Prefect, one version of it for each run."""
    rows = [
        {"stage": ended.stage, "outcome": ended.outcome, "seconds": round(ended.seconds, 1), "reason": ended.reason}
        for ended in build.stages
    ]
    _Shown("table")(create_table_artifact, table=rows, key="build", description="What became of each stage.")


def show_records(records: Mapping[str, str]) -> None:
    """Leave in Prefect what explains this run: the record of each stage that ran, and where the review site is."""
    if not records:
        return
    site = flow_settings().review_site
    where = f"[The review site]({site})" if site else "`pedigree report` writes the review site of this build."
    rows = [f"| {stage} | `{path}` |" for stage, path in records.items()]
    text = "\n".join(["| stage | record |", "|---|---|", *rows, "", where])
    _Shown("records")(create_markdown_artifact, markdown=text, key="records", description="What explains this run.")


class _Shown:
    """Calls of Prefect that a build goes on without: after one that fails, no other is made."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.failed = False

    def __call__(self, call: Callable[..., object], *arguments: object, **options: object) -> object:
        """What `call` returns, or None."""
        if self.failed:
            return None
        try:
            return call(*arguments, **options)
        except Exception as error:
            self.failed = True
            say("build", f"Prefect doesn't take the {self.what} of this build: {type(error).__name__}")
            return None
