"""A sweep as a Prefect flow: a task for each experiment, and the table of what they gave."""

from threading import Semaphore
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.task_runners import ThreadPoolTaskRunner

from flows.experiments import Experiment, Result, Sweep, combinations, ranked, show
from flows.lifetime.worker import end_with_worker
from flows.notify import tell_failure, tell_people
from flows.work import say


@flow(
    name="sweep",
    task_runner=ThreadPoolTaskRunner(),  # type: ignore[arg-type]
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
)
def sweep(values: dict[str, list[Any]], at_once: int = 1) -> list[dict[str, object]]:
    """Build every combination of `values` (parameter -> what to try), `at_once` side by side; a row for each.

    One that fails is a row with its reason; people are told, and the others go on.
    """
    end_with_worker()
    experiments, work, free = combinations(values), Sweep(), Semaphore(at_once)
    with work.held():
        done = [
            run_experiment.with_options(task_run_name=experiment.name).submit(experiment, work, free)
            for experiment in experiments
        ]
        results = [future.result() for future in done]
    rows = [result.row for result in ranked(results)]
    create_table_artifact(table=rows, key="sweep", description="What each experiment gave, the best first.")
    show(results)
    if failed := [result for result in results if result.outcome == "failed"]:
        reasons = {result.experiment.name: result.reason for result in failed}
        tell_people("sweep", f"{len(failed)} of {len(results)} experiments failed", reasons)
    return rows


@task(persist_result=False)
def run_experiment(experiment: Experiment, work: Sweep, free: Semaphore) -> Result:
    """One experiment, when it is its turn."""
    run_log = get_run_logger()

    def tell(line: str) -> None:
        run_log.info(line)
        say(experiment.name, line)

    with free:
        return work.run(experiment, tell)
