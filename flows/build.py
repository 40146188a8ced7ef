"""The build as a Prefect flow: a task for each stage of dvc.yaml."""

from typing import cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.dag import Stage
from flows.stage import Ended
from flows.work import Build, Work, say


@flow(name="build", task_runner=ThreadPoolTaskRunner())  # type: ignore[arg-type]
def build(targets: list[str] | None = None) -> Build:
    """Bring `targets` (default: every stage) up to date, side by side where the DAG allows."""
    work = Work(targets)
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
    progress = cast(UUID, create_progress_artifact(0.0, key="build-progress", description="Stages that are done."))
    for count, _ in enumerate(as_completed(stages), start=1):
        update_progress_artifact(progress, 100 * count / len(stages))


def show_stages(build: Build) -> None:
    """Leave the table of the stages in Prefect, one version of it for each run."""
    rows = [
        {"stage": ended.stage, "outcome": ended.outcome, "seconds": round(ended.seconds, 1), "reason": ended.reason}
        for ended in build.stages
    ]
    create_table_artifact(table=rows, key="build", description="What became of each stage.")
