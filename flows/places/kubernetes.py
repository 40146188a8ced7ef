"""Kubernetes as a place: an errand is a Job, found again by its name whoever asks for it.

What a job is made of, and what its end means, is in flows.places.job. Here the API is asked, in a loop: the truth is
what it says of the job and its pods now; a watch only wakes the loop early, so one that breaks loses nothing.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import yaml
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from flows.places import Errand, failure
from flows.places.cluster import Cluster, PodLog, connect
from flows.places.handover import fetch_log, forget_log
from flows.places.job import (
    Manifest,
    Verdict,
    disruption,
    index,
    job,
    job_name,
    last_words,
    obstacle,
    started,
    verdict,
)
from flows.places.settings import KubernetesResources
from flows.stage import BURST, ComeAgain, StageFailed, Stopped, Tell
from stages.params import Refusal

LOOK_SECONDS = 2  # at least so often; at once when the job changes
LOST_SECONDS = 300.0  # a cluster that doesn't answer for so long can't be reached
START_SECONDS = 300.0  # an image that can't be pulled, or a missing secret, may mend itself within this
SHORT_SECONDS = 60.0  # a job that was interrupted sooner will be again: the caller waits longer and longer
SPARE_SECONDS = 30.0  # beyond the grace of its pods, until a deleted job is gone


class Kubernetes:
    """The clusters of one build: those of the kubeconfig, or the one in which this process is a pod."""

    def __init__(self, root: Path = Path()) -> None:
        self.root = root
        self._clusters: dict[str | None, Cluster] = {}

    def run(self, errand: Errand, resources: KubernetesResources, tell: Tell, stopping: Event) -> None:
        """Run `errand` as a Job and wait for its end; see flows.places.Place.

        Raises:
            StageRefused, StageFailed, ComeAgain, Stopped, Refusal: why it isn't done.
        """
        cluster = self._cluster(resources)
        manifest = job(errand, resources, read_template(self.root / resources.template))
        for restart in range(resources.restarts + 1):
            run = Run(errand, resources, cluster, tell, stopping)
            ended = run.follow(manifest)
            if ended.code is not None:
                return self._end(errand, ended, run)
            if restart == resources.restarts or run.seconds < SHORT_SECONDS:
                break
            tell(f"{run}: {ended.why}; it comes again")
        raise ComeAgain(f"{errand.stage}: interrupted ({run}: {ended.why})")

    def _end(self, errand: Errand, ended: Verdict, run: "Run") -> None:
        run.keep_words()
        if ended.code:
            raise failure(errand, ended.code, str(run))

    def _cluster(self, resources: KubernetesResources) -> "Cluster":
        if resources.context not in self._clusters:
            self._clusters[resources.context] = connect(resources.context)
        return self._clusters[resources.context].within(resources.namespace)


@dataclass
class Run:
    """One job of an errand, from its start (or where it was found) to its end."""

    errand: Errand
    resources: KubernetesResources
    cluster: Cluster
    tell: Tell
    stopping: Event
    begin: float = field(default_factory=time.monotonic)
    _logs: dict[str, "PodLog"] = field(default_factory=dict)
    _pods: list[Manifest] = field(default_factory=list)
    _disrupted: set[str] = field(default_factory=set)
    _blocked: dict[str, float] = field(default_factory=dict)  # since when, by kind of obstacle

    @property
    def name(self) -> str:
        """The job's name."""
        return job_name(self.errand)

    @property
    def seconds(self) -> float:
        """How long it has been followed."""
        return time.monotonic() - self.begin

    def __str__(self) -> str:
        """Where to look for it."""
        return f"Kubernetes job {self.cluster.namespace}/{self.name}"

    def follow(self, manifest: Manifest) -> Verdict:
        """Make the job `manifest`, or find it, and follow it to its end.

        Raises:
            Stopped: if it was stopped, and is gone.
            Refusal: if it can't start.
            ComeAgain: if the cluster doesn't answer.
            StageFailed: if someone else deletes it.
        """
        found = self._start(manifest)
        while True:
            if self.stopping.is_set():
                self._stop(found)
            self._look(found)
            if ended := verdict(found, self._pods):
                return ended
            self._refuse_if_blocked()
            self._sleep(found)
            found = self._there(self._patiently(partial(self.cluster.job, self.name)))

    def keep_words(self) -> None:
        """Put what the stage said into the log: all of it from the store, or what the cluster still has."""
        with suppress(ComeAgain, Refusal):
            fetch_log(self.errand)
        if self.errand.log.exists() and self.errand.log.stat().st_size:
            return
        if words := next((words for pod in reversed(self._pods) if (words := last_words(pod))), ""):
            self.errand.log.write_text(words.rstrip() + "\n", encoding="utf-8")

    def _start(self, manifest: Manifest) -> Manifest:
        """The job, running: an earlier one that has ended, or is being deleted, makes room first."""
        self.errand.log.parent.mkdir(parents=True, exist_ok=True)
        self.errand.log.write_bytes(b"")
        found = self._patiently(partial(self.cluster.job, self.name))
        if found and (verdict(found, []) or found["metadata"].get("deletionTimestamp")):
            self._delete(found, heed=False)
            found = None
        if found:
            self.tell(f"{self} runs already; it is followed")
        else:
            forget_log(self.errand)
            self.tell(f"{self} is started")
        return self._there(self._patiently(partial(self.cluster.create, manifest)))

    def _there(self, found: Manifest | None) -> Manifest:
        if found is None:
            raise StageFailed(f"{self.errand.stage}: {self} was deleted by someone; run again to start it anew")
        return found

    def _look(self, found: Manifest) -> None:
        self._pods = self._patiently(partial(self.cluster.pods, self.name))
        for pod in self._pods:
            name = pod["metadata"]["name"]
            if started(pod):
                log = self._logs.setdefault(name, PodLog(self.cluster, name, f"[{index(pod)}] " if index(pod) else ""))
                self._keep(log.news())
            if name not in self._disrupted and (why := disruption(pod)):
                self._disrupted.add(name)
                self.tell(f"pod {name} was disrupted ({why})")

    def _keep(self, lines: list[str]) -> None:
        if not lines:
            return
        with self.errand.log.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        if len(lines) > BURST:
            self.tell(f"({len(lines) - BURST} more lines in {self.errand.log})")
        for line in lines[-BURST:]:
            self.tell(line)

    def _refuse_if_blocked(self) -> None:
        """Give up on a job whose pod can't start and won't by itself."""
        now = time.monotonic()
        blocked = dict(filter(None, (obstacle(pod) for pod in self._pods)))
        self._blocked = {kind: self._blocked.get(kind, now) for kind in blocked}
        patience = {"room": self.resources.wait_minutes * 60}
        for kind, since in self._blocked.items():
            if now - since >= patience.get(kind, START_SECONDS):
                self.cluster.delete(self.name)
                raise Refusal(f"{self.errand.stage}: {self._why_blocked(kind, blocked[kind], now - since)}")

    def _why_blocked(self, kind: str, said: str, seconds: float) -> str:
        match kind:
            case "image":
                cause = f"the image {self.resources.image} can't be pulled ({said}); correct it in the file of places"
            case "room":
                cause = f"no node has had room for it ({said}); ask for less, or wait longer by wait_minutes"
            case _:
                cause = f"its container can't be made ({said}); correct {self.resources.template}"
        return f"{cause}; {self} was removed after {seconds / 60:.0f} minutes"

    def _stop(self, found: Manifest) -> None:
        self.tell(f"{self} is stopped")
        self._delete(found, heed=True)
        self.keep_words()
        raise Stopped(f"{self.errand.stage}: stopped")

    def _delete(self, found: Manifest, heed: bool) -> None:
        """Delete the job and wait until it is gone, with its pods; with `heed`, what they say till then is kept."""
        grace = found["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30)
        until = time.monotonic() + grace + SPARE_SECONDS
        self._patiently(partial(self.cluster.delete, self.name))
        while (left := self._patiently(partial(self.cluster.job, self.name))) and _uid(left) == _uid(found):
            if time.monotonic() > until:
                raise ComeAgain(f"{self} is not gone {grace + SPARE_SECONDS:.0f} s after it was deleted")
            if heed:
                self._look(left)
            self._sleep(left)

    def _sleep(self, found: Manifest) -> None:
        """Until the job changes, but not for long: its log grows, its pods may be stuck, the build may be stopped."""
        try:
            self.cluster.wait_for_change(found, LOOK_SECONDS)
        except (ApiException, HTTPError, OSError):  # 410 Gone, a dropped connection: the next look tells
            self.stopping.wait(LOOK_SECONDS)

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """`call`, again and again while the cluster doesn't answer.

        Raises:
            ComeAgain: if it hasn't for LOST_SECONDS.
        """
        lost = time.monotonic() + LOST_SECONDS
        while True:
            try:
                return call()
            except ComeAgain as error:
                if time.monotonic() > lost or self.stopping.is_set():
                    raise
                self.tell(f"{error}; asking again")
            self.stopping.wait(LOOK_SECONDS)


def read_template(path: Path) -> Manifest:
    """The job in the YAML file `path`.

    Raises:
        Refusal: if it is missing, or holds no Job.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refusal(f"{path} is missing; it holds the job that a stage is made into") from None
    except yaml.YAMLError as error:
        raise Refusal(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or found.get("kind") != "Job":
        raise Refusal(f"{path} holds no Job; it is one of apiVersion batch/v1, kind Job")
    return found


def _uid(found: Manifest) -> str:
    return str(found["metadata"].get("uid", ""))
