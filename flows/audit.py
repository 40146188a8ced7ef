"""The audit of the published version, as a Prefect flow: is it still what it was, and may it be what it is?

    rebuild        the version, built again in a clean clone without a cache, has the same digests
    store          every object that a version needs is in the object store, and whole
    dependencies   what is installed is what requirements.lock names
    advisories     no locked package has a known vulnerability
    licences       every locked package's licence is allowed
    sources        every source's licence is allowed

Each is a task; one that breaks hides no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from flows.dependencies import OSV, NotAsked, differing, read_lock, unlicensed, vulnerable
from flows.experiments import why
from flows.licences import trouble_with_source
from flows.lifetime.bound import Bound
from flows.lifetime.worker import end_with_worker
from flows.notify import tell_failure
from flows.publication.versions import ARTIFACT, current
from flows.stage import end_of
from flows.work import say
from stages.params import read_params

GOOD, BROKEN, UNKNOWN = "good", "broken", "not asked"


class AuditFailed(RuntimeError):
    """Something in the audit is broken; what, in one sentence."""


@dataclass(frozen=True)
class Finding:
    """What one part of the audit found: good, broken, or not asked (nothing is known), and a sentence."""

    part: str
    outcome: str
    sentence: str


@flow(
    name="audit",
    task_runner=ThreadPoolTaskRunner(),  # type: ignore[arg-type]
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
)
def audit(rev: str | None = None, advisories: str = OSV, data_only: bool = False) -> list[Finding]:
    """Check the version of `rev` (default: the one in prod, or HEAD without one); what each part found.

    Args:
        rev: a commit, tag or branch.
        advisories: URL of the OSV database's batch query, or a mirror of it.
        data_only: leave the model out of the rebuild.

    Raises:
        AuditFailed: if a part is broken; the table stays as an artifact.
    """
    end_with_worker()
    root, commands = Path(), Bound()
    version = rev or current_version(root) or "HEAD"
    try:
        parts = {
            "rebuild": check_rebuild.submit(version, data_only, root, commands),
            "store": check_store.submit(root, commands),
            "dependencies": check_dependencies.submit(root),
            "advisories": check_advisories.submit(advisories, root),
            "licences": check_licences.submit(root),
            "sources": check_sources.submit(root),
        }
        findings = [_finding(part, future) for part, future in parts.items()]
    except BaseException:  # a signal too: the commands end before the flow does
        commands.stop()
        raise
    create_markdown_artifact(markdown(version, findings), key="audit", description="What each part found.")
    for finding in findings:
        say(finding.part, f"{finding.outcome}: {finding.sentence}")
    if broken := [f"{finding.part}: {finding.sentence}" for finding in findings if finding.outcome == BROKEN]:
        raise AuditFailed(f"{version}: {'; '.join(broken)}")
    return findings


def current_version(root: Path) -> str | None:
    """The tag of the version that is in prod; None if none is."""
    version = current(root)
    return f"{ARTIFACT}@{version.name}" if version else None


def markdown(version: str, findings: Sequence[Finding]) -> str:
    """The table of the audit."""
    rows = [f"| {finding.part} | {finding.outcome} | {finding.sentence.replace('|', '/')} |" for finding in findings]
    return "\n".join([f"Audit of `{version}`", "", "| part | outcome | what was found |", "|---|---|---|", *rows])


@task(name="rebuild", persist_result=False)
def check_rebuild(version: str, data_only: bool, root: Path, commands: Bound) -> Finding:
    """The version is built again, in a clean clone without a cache."""
    options = ["--data-only"] if data_only else []
    return _command("rebuild", ["pedigree", "verify", version, *options], root, commands)


@task(name="store", persist_result=False)
def check_store(root: Path, commands: Bound) -> Finding:
    """The object store holds what the versions need."""
    with Repo(str(root)) as repo:
        remote = repo.config["core"].get("remote")
    if not remote:
        return Finding("store", GOOD, "there is no default remote, so nothing to check")
    return _command("store", ["pedigree", "store", "check"], root, commands)


@task(name="dependencies", persist_result=False)
def check_dependencies(root: Path) -> Finding:
    """What is installed is what is locked."""
    packages = read_lock(root / "requirements.lock")
    return _of_list("dependencies", differing(packages), f"{len(packages)} packages are installed as they are locked")


@task(name="advisories", persist_result=False)
def check_advisories(url: str, root: Path) -> Finding:
    """No locked package has a known vulnerability."""
    packages = read_lock(root / "requirements.lock")
    try:
        found = vulnerable(packages, url)
    except NotAsked as error:
        return Finding("advisories", UNKNOWN, str(error))
    return _of_list("advisories", found, f"no known vulnerability in {len(packages)} packages")


@task(name="licences", persist_result=False)
def check_licences(root: Path) -> Finding:
    """The licence of every locked package is allowed."""
    packages = read_lock(root / "requirements.lock")
    return _of_list("licences", unlicensed(packages), f"the licences of {len(packages)} packages are allowed")


@task(name="sources", persist_result=False)
def check_sources(root: Path) -> Finding:
    """The licence of every source is allowed."""
    sources = read_params(root / "params.yaml").get("sources", {})
    named = {name: source.get("extract", {}).get("license") for name, source in sources.items()}
    troubles = [trouble for name, licence in named.items() if (trouble := trouble_with_source(name, licence))]
    good = ", ".join(f"{name}: {licence}" for name, licence in named.items()) or "there are no sources"
    return _of_list("sources", troubles, good)


def _command(part: str, command: Sequence[str], root: Path, commands: Bound) -> Finding:
    """The verdict of a command: its exit code, and the last sentence that it says."""
    log = root / "logs" / f"audit-{part}.log"
    code = commands.run(command, root, log)
    for line in end_of(log).splitlines():
        get_run_logger().info(line.rstrip())
    if code:
        return Finding(part, BROKEN, why(code, log))
    said = [line for line in end_of(log).splitlines() if line.strip()]
    return Finding(part, GOOD, said[-1].strip() if said else "it ended well")


def _of_list(part: str, troubles: list[str], good: str) -> Finding:
    return Finding(part, BROKEN, "; ".join(troubles)) if troubles else Finding(part, GOOD, good)


def _finding(part: str, future: PrefectFuture[Finding]) -> Finding:
    """What a task found; one that broke found that."""
    found = future.result(raise_on_failure=False)
    return found if isinstance(found, Finding) else Finding(part, BROKEN, f"{type(found).__name__}: {found}")
