"""Tell Prefect of the builds that have died: it would show them as running for ever.

Only runs of which this clone knows that their process is dead are touched: by their record (lease.py), or
because they have been waiting to begin, here, for longer than any start takes.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows.lifetime.lease import Run, dead_runs, forget, live_runs
from flows.notify import page_of, tell_people
from flows.stage import Tell

KNOWN_DAYS = 7  # so long a server that doesn't answer is asked again at each start
PENDING_MINUTES = 10  # a process that shall begin has done so by then
OTHER_SERVER_SECONDS = 5.0
_OPEN = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]


def reap(root: Path, tell: Tell) -> None:
    """Mark as Crashed what died at `root`, flows and their tasks. A server that doesn't answer is only told of."""
    root = root.resolve()
    for run in dead_runs(root):
        try:
            known = _crash_recorded(run, tell)
        except Exception as error:
            tell(f"Prefect was not told that the run {run.flow_run} is dead: {type(error).__name__}")
            known = False
        if known or _is_old(run):
            forget(run, root)
    try:
        with get_client(sync_client=True) as client:
            _crash_never_begun(client, root, tell)
    except Exception as error:
        tell(f"Prefect was not asked for runs that never began: {type(error).__name__}")


def _crash_recorded(run: Run, tell: Tell) -> bool:
    """Whether the server that has `run` knows now how it ended: this flow's server, or the one of its record."""
    with get_client(sync_client=True) as client:
        if run.flow_run is None or _crash(client, UUID(run.flow_run), tell):
            return True
    if run.api is None:
        return False
    # Without this one's key: it may be anybody's by now.
    with SyncPrefectClient(run.api, httpx_settings={"timeout": OTHER_SERVER_SECONDS}) as client:
        return _crash(client, UUID(run.flow_run), tell)


def _crash(client: SyncPrefectClient, flow_run: UUID, tell: Tell) -> bool:
    """Whether `client` has `flow_run`, which has an end now: that it had, or Crashed."""
    try:
        run = client.read_flow_run(flow_run)
    except ObjectNotFound:
        return False
    _crash_tasks(client, flow_run)
    if run.state is None or not run.state.is_final():
        client.set_flow_run_state(flow_run, Crashed(message="Its process died."), force=True)
        tell(f"the run {flow_run} is dead: Prefect knows it now")
        if run.deployment_id:  # it could tell nobody itself
            tell_people("failure", f"the run {run.name} has died without a word", {"page": page_of(run)})
    return True


def _crash_tasks(client: SyncPrefectClient, flow_run: UUID) -> None:
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_OPEN))),
    )
    for task in tasks:
        client.set_task_run_state(task.id, Crashed(message="Its process died."), force=True)


def _crash_never_begun(client: SyncPrefectClient, root: Path, tell: Tell) -> None:
    """Runs of this clone's deployments that a worker took, and died with, before their process wrote a record."""
    here = [deployment.id for deployment in client.read_deployments() if root in _folders(deployment.pull_steps)]
    if not here:
        return
    known = {run.flow_run for run in live_runs(root)}
    pending = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=here)),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING]))),
    )
    for run in pending:
        if str(run.id) not in known and _has_waited(run):
            client.set_flow_run_state(run.id, Crashed(message="Its worker died before it began."), force=True)
            tell(f"the run {run.name} has not begun in {PENDING_MINUTES} minutes: Prefect has it as crashed now")


def _folders(pull_steps: list[dict[str, dict[str, object]]] | None) -> set[Path]:
    """Where the runs of a deployment work."""
    settings = [step for steps in pull_steps or [] for step in steps.values()]
    return {Path(str(each["directory"])).resolve() for each in settings if each and "directory" in each}


def _has_waited(run: FlowRun) -> bool:
    since = run.state.timestamp if run.state else None
    return since is not None and datetime.now(UTC) - since > timedelta(minutes=PENDING_MINUTES)


def _is_old(run: Run) -> bool:
    return not run.began or datetime.now(UTC) - datetime.fromisoformat(run.began) > timedelta(days=KNOWN_DAYS)
