"""The weekly refresh, as a Prefect flow: newest sources, a build of them, and a new version if it isn't worse.

    upstream's branch -> newest pins -> build -> comparison with the current version -> version, or candidate branch

Nobody is asked, and nothing that is surely worse becomes the current version. A clone is used in which nobody has
uncommitted changes. A refresh that is killed leaves a mark, by which the next one takes back what it had written.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.build import run_stages
from flows.dag import read_dag
from flows.git import branch, changed, somebody_commits, text_at, upstream
from flows.lifetime.lease import STATE, building
from flows.lifetime.reaper import reap
from flows.lifetime.worker import end_with_worker
from flows.notify import tell_failure, tell_people
from flows.pins import PARAMS, Pins, changes, newest_pins, with_entries, with_pins
from flows.publication.gate import Comparison, as_markdown
from flows.publication.publish import (
    catch_up,
    fetch,
    go_back,
    is_of_version,
    new_records,
    publish,
    published_as,
    take_back,
)
from flows.stage import ComeAgain, StageFailed, StageRefused, Tell
from flows.work import Work, say
from stages.locked import LOCK
from stages.params import Refusal

MARK = STATE / "refresh.json"
PINNED = (PARAMS, LOCK.name)


@dataclass(frozen=True)
class Refreshed:
    """What a refresh came to."""

    outcome: str  # idle, published, refused, superseded
    sentence: str
    sources: tuple[str, ...] = ()  # whose pins are new
    unknown: Mapping[str, str] = field(default_factory=dict)  # sources that couldn't be asked, and why
    held: Mapping[str, str] = field(default_factory=dict)  # sources whose newest revision breaks, and how
    candidate: str | None = None
    comparison: Comparison | None = None


@flow(
    name="refresh",
    task_runner=ThreadPoolTaskRunner(),  # type: ignore[arg-type]
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
)
def refresh() -> State[Refreshed]:
    """Bring the sources up to date, build, and publish what isn't worse; a candidate branch is no failure.

    Raises:
        Refusal: if the working tree has uncommitted changes, or has diverged from its upstream.
        StageRefused, StageFailed: if a stage breaks, by another cause than a new revision of its source; the working
            tree is then what it was.
    """
    end_with_worker()
    run_log = get_run_logger()

    def tell(line: str) -> None:
        run_log.info(line)
        say("refresh", line)

    with building(Path(), tell, flow_run.get_id(), get_current_settings().api.url):
        reap(Path(), tell)
        done = refresh_here(lambda: run_stages(Work()), Path(), tell)
    create_markdown_artifact(markdown(done), key="refresh", description="What the refresh came to.")
    return Completed(message=done.sentence, data=done)


def refresh_here(build: Callable[[], object], root: Path, tell: Tell) -> Refreshed:
    """What `refresh` does in the clone at `root`, where `build` brings all stages up to date."""
    with building(root, tell):
        take_back_leftovers(root)
        above = upstream(root)
        fetch(root, above)
        catch_up(root, above)
        pins, unknown = newest_pins(root)
        for name, why in unknown.items():
            tell_people("refusal", f"source {name} keeps its revision, as the newest can't be asked for: {why}")
        new = changes(root, pins)
        tell(f"newer revisions of {', '.join(new)}" if new else "no source has a newer revision")
        pin(root, new)
        try:
            held = _build(build, root, new) if any(stage.stale for stage in read_dag(root).stages) else {}
            done = _published(root, tell)
        except (Refusal, StageFailed, ComeAgain):
            _go_back(root, tell)  # the nightly build must not fail of what only a refresh had pinned
            raise
        (root / MARK).unlink(missing_ok=True)
        return Refreshed(**done, sources=tuple(name for name in new if name not in held), unknown=unknown, held=held)


def pin(root: Path, new: Mapping[str, Pins]) -> None:
    """Write the `new` pins into params.yaml and sources.lock; first the mark that what differs from HEAD is ours."""
    texts = {name: _text(root / name) for name in PINNED}
    if new:
        texts = {
            PARAMS: with_pins(root, {name: each.download for name, each in new.items()}),
            LOCK.name: with_entries(root, new),
        }
    (root / MARK).parent.mkdir(parents=True, exist_ok=True)
    _write(root / MARK, json.dumps({name: _digest(text) for name, text in texts.items()}))
    if new:
        for name, text in texts.items():
            _write(root / name, text)


def take_back_leftovers(root: Path) -> None:
    """Take back what a refresh had written that was killed.

    Raises:
        Refusal: if the working tree has changes of anyone else.
    """
    branch(root)
    somebody_commits(root)
    for name in PINNED:
        (root / f".{name}.partial").unlink(missing_ok=True)
    new = new_records(root)
    if not (dirty := [path for path in changed(root, "HEAD") if path not in new]):
        return
    left = _left_by_us(root)
    ours = all(_digest(_text(root / name)) in left.get(name, ()) for name in PINNED)
    if not ours or not all(map(is_of_version, dirty)):
        raise Refusal(f"{', '.join(dirty[:5])} changed since the last commit; commit that, or take it back, first")
    take_back(root)


def markdown(done: Refreshed) -> str:
    """What happened, and the comparison as a table."""
    lines = [f"**{done.outcome}**: {done.sentence}", ""]
    if done.sources:
        lines += [f"New revisions: {', '.join(done.sources)}", ""]
    lines += [f"* {name} couldn't be asked: {why}" for name, why in done.unknown.items()]
    lines += [f"* {name} keeps its revision, as the newest breaks: {why}" for name, why in done.held.items()]
    if done.comparison:
        lines += ["", *as_markdown(done.comparison)]
    return "\n".join(lines)


def _build(build: Callable[[], object], root: Path, new: Mapping[str, Pins]) -> dict[str, str]:
    """Build; one of the `new` sources that breaks gets its old pins back, and the rest is built. How each broke.

    Raises:
        StageRefused, StageFailed: if anything else breaks.
    """
    held: dict[str, str] = {}
    while True:
        try:
            build()
            return held
        except (StageRefused, StageFailed) as broken:
            sources = {stage.partition("@")[2] for stage in broken.stages}
            if not sources or not sources <= new.keys() - held.keys():
                raise
            for name in sorted(sources):
                held[name] = str(broken)
                tell_people("refusal", f"source {name} keeps its revision, as the newest breaks: {broken}")
        for name in PINNED:
            _write(root / name, text_at(root, "HEAD", name) or "")
        pin(root, {name: each for name, each in new.items() if name not in held})


def _published(root: Path, tell: Tell) -> dict[str, Any]:
    """Outcome, sentence, candidate and comparison."""
    if name := published_as(root):
        return {"outcome": "idle", "sentence": f"nothing is new: this build is base@{name}"}
    published = publish(root=root, tell=tell)
    if published.candidate:
        _go_back(root, tell)
        if published.is_new:
            reasons = published.comparison.reasons if published.comparison else ()
            tell_people("candidate", published.sentence, {"branch": published.candidate, "reasons": len(reasons)})
    return {
        "outcome": published.outcome,
        "sentence": published.sentence,
        "candidate": published.candidate,
        "comparison": published.comparison,
    }


def _go_back(root: Path, tell: Tell) -> None:
    """Have the working tree be what the branch has; where outs can't be got, the next build gets them."""
    try:
        go_back(root, upstream(root), tell)
    except (ComeAgain, Refusal) as trouble:
        tell(f"the working tree's outs are not those of the branch yet ({trouble}); the next build has them made")
    (root / MARK).unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _left_by_us(root: Path) -> dict[str, set[str]]:
    """By file, the digests by which it is known to be a refresh's: what it wrote, or what it had taken back."""
    try:
        mark = json.loads((root / MARK).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return {name: {mark[name], _digest(text_at(root, "HEAD", name) or "")} for name in PINNED if name in mark}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
