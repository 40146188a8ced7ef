"""A Kubernetes cluster: the few calls that a place needs, and what can go wrong with them in one sentence each."""

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from flows.places.job import CONTAINER, JOB_NAME, Manifest, index, service
from flows.stage import ComeAgain
from stages.params import Refusal

ANSWER_SECONDS = 30.0  # longest wait for an answer of the API
OVERLAP_SECONDS = 5  # of two looks at a log, for clocks that differ; a line is told once
FIRST_LINES = 10_000  # of a log that was long when it was found

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Cluster:
    """A namespace of a cluster, and the calls that a place needs; objects are what the API has in JSON."""

    api: client.ApiClient
    namespace: str

    def within(self, namespace: str | None) -> "Cluster":
        """The same cluster, but this namespace of it if one is given."""
        return Cluster(self.api, namespace or self.namespace)

    def job(self, name: str) -> Manifest | None:
        """The job of this name, if there is one."""
        found: Manifest | None = None
        with suppress(Missing), calling():
            found = self._plain(client.BatchV1Api(self.api).read_namespaced_job(name, self.namespace, **_answer()))
        return found

    def pods(self, name: str) -> list[Manifest]:
        """The pods of job `name`, the oldest first."""
        with calling():
            listed = client.CoreV1Api(self.api).list_namespaced_pod(
                self.namespace, label_selector=f"{JOB_NAME}={name}", **_answer()
            )
        found: list[Manifest] = self._plain(listed)["items"]
        return sorted(found, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), index(pod)))

    def create(self, manifest: Manifest) -> Manifest | None:
        """The job `manifest`, made now or there already, with the service that its nodes find each other by.

        None if someone has deleted it since.
        """
        batch: Any = client.BatchV1Api(self.api)  # it takes objects as they are in JSON, but doesn't say so
        core: Any = client.CoreV1Api(self.api)
        with suppress(Exists), calling():
            batch.create_namespaced_job(self.namespace, manifest, **_answer())
        made = self.job(manifest["metadata"]["name"])
        if made and (needed := service(made)):
            with suppress(Exists), calling():
                core.create_namespaced_service(self.namespace, needed, **_answer())
        return made

    def delete(self, name: str) -> None:
        """Have job `name` end: its pods get SIGTERM and their grace, and it is gone when they are."""
        with suppress(Missing), calling():
            client.BatchV1Api(self.api).delete_namespaced_job(
                name, self.namespace, propagation_policy="Foreground", **_answer()
            )

    def log(self, pod: str, since_seconds: int | None) -> list[str]:
        """The lines of `pod`'s log of the last `since_seconds`, each behind its time; none if it can't be read."""
        newest: dict[str, Any] = {"since_seconds": since_seconds} if since_seconds else {"tail_lines": FIRST_LINES}
        try:
            with calling():
                answer: Any = client.CoreV1Api(self.api).read_namespaced_pod_log(
                    pod, self.namespace, container=CONTAINER, timestamps=True,
                    _preload_content=False, **newest, **_answer(),
                )  # fmt: skip
                text: str = answer.data.decode("utf-8", errors="replace")
        except (Refusal, ComeAgain):  # it is gone with its node, or not there yet
            return []
        return text.splitlines()

    def wait_for_change(self, found: Manifest, seconds: int) -> None:
        """Return when the job `found` has changed, or after `seconds`."""
        name, version = found["metadata"]["name"], found["metadata"]["resourceVersion"]
        watching: Any = watch.Watch()  # type: ignore[no-untyped-call]
        events = watching.stream(
            client.BatchV1Api(self.api).list_namespaced_job,
            self.namespace,
            field_selector=f"metadata.name={name}",
            resource_version=version,
            timeout_seconds=seconds,
            **_answer(),
        )
        next(events, None)
        events.close()

    def _plain(self, answer: Any) -> Any:
        return self.api.sanitize_for_serialization(answer)  # type: ignore[no-untyped-call]


class Missing(Refusal):
    """The cluster has no such object."""


class Exists(Refusal):
    """The cluster has one of this name already."""


@dataclass
class PodLog:
    """What a pod has said that was not passed on yet."""

    cluster: Cluster
    pod: str
    prefix: str
    _read: float | None = None
    _last: str = ""

    def news(self) -> list[str]:
        """The new lines, without their times."""
        now = time.monotonic()
        since = None if self._read is None else math.ceil(now - self._read) + OVERLAP_SECONDS
        stamped = [line.partition(" ") for line in self.cluster.log(self.pod, since)]
        new = [(at, text) for at, _, text in stamped if _moment(at) > self._last]
        if new:
            self._read, self._last = now, _moment(new[-1][0])
        return [f"{self.prefix}{text}" for _, text in new]


def _moment(stamp: str) -> str:
    """A time of a log, such that later ones sort behind it: the zeros at its end may be missing."""
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"


def connect(context: str | None = None) -> Cluster:
    """The cluster of the kubeconfig (KUBECONFIG, or ~/.kube/config), or else that in which this process is a pod.

    Raises:
        Refusal: if there is neither, or no such context.
    """
    given, loading = client.Configuration(), cast(Any, config)
    file = os.environ.get("KUBECONFIG")  # the client reads it when it is imported, once and for all
    try:
        if context is None and _NAMESPACE.exists():
            loading.load_incluster_config(client_configuration=given)
            namespace = _NAMESPACE.read_text(encoding="utf-8").strip()
        else:
            loading.load_kube_config(file, context, given)
            namespace = _namespace_of(file, context)
    except config.ConfigException as error:
        raise Refusal(
            f"no Kubernetes cluster is known here ({error}); set KUBECONFIG to a file that has "
            f"{f'the context {context}' if context else 'a current context'}, or run as a pod with a service account"
        ) from None
    return Cluster(client.ApiClient(given), namespace)


def _namespace_of(file: str | None, context: str | None) -> str:
    contexts, current = cast(Any, config).list_kube_config_contexts(file)
    chosen = next((each for each in contexts if each["name"] == context), current)
    return str(chosen["context"].get("namespace", "default"))


@contextmanager
def calling() -> Iterator[None]:
    """What can go wrong with a call, in one sentence.

    Raises:
        Missing, Exists: if that is what the cluster says.
        Refusal: if it will say the same again.
        ComeAgain: if it may not.
    """
    try:
        yield
    except ApiException as error:
        said = _said(error)
        match error.status:
            case 404:
                raise Missing(f"Kubernetes: {said}") from None
            case 409:
                raise Exists(f"Kubernetes: {said}") from None
            case 401 | 403:
                raise Refusal(f"Kubernetes refuses: {said}; infra/kubernetes/base/worker.yaml has the rights") from None
            case 400 | 422:
                raise Refusal(f"Kubernetes: {said}; correct the template of the job, or its resources") from None
            case _:
                raise ComeAgain(f"Kubernetes answers {error.status}: {said}") from None
    except (HTTPError, OSError) as error:
        raise ComeAgain(f"Kubernetes can't be reached ({type(error).__name__})") from error


def _said(error: ApiException) -> str:
    """What the API says of an error; the exception itself would print headers."""
    with suppress(ValueError, TypeError, AttributeError):
        return str(json.loads(error.body or "")["message"])
    return str(error.reason)


def _answer() -> dict[str, Any]:
    return {"_request_timeout": ANSWER_SECONDS}
