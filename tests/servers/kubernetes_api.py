"""A small Kubernetes for the tests: the API calls that a place uses, a job controller, and pods that are processes.

No real one can be had where the tests run. This one keeps objects, checks what it is given against the schemas of
Kubernetes (strictly, as `kubectl apply --validate=strict` does), and really runs a pod's command on this machine, with
the environment that the pod asks for: so exit codes, logs, SIGTERM and its grace are real. What it leaves out: images,
users, limits, networks, and the pauses between the tries of a job. A mount path is a folder of the pod's own, which
takes its place wherever a value begins with it.
"""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import kubernetes_validate
import psutil
import pytest
import yaml

from infra.store.server import dies_with_parent

VERSION = "1.33"  # of the schemas, and of what the job controller does
NAMESPACE = "pedigree"
TOKEN = "token-of-the-tests"
INDEX = "batch.kubernetes.io/job-completion-index"
JOB_NAME = "batch.kubernetes.io/job-name"
HISTORY = 1000

Manifest = dict[str, Any]


class Refused(Exception):
    """An answer that isn't what was asked for."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = {
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
            "message": message,
        }  # fmt: skip


class Pod:
    """One pod: its object, its process and its log."""

    def __init__(self, cluster: "Cluster", job: Manifest, index: int) -> None:
        self.cluster, self.index = cluster, index
        name = f"{job['metadata']['name']}-{uuid4().hex[:5]}"
        self.object: Manifest = copy.deepcopy(job["spec"]["template"])
        metadata = self.object.setdefault("metadata", {})
        metadata |= {"name": name, "namespace": NAMESPACE, "uid": uuid4().hex, "creationTimestamp": now()}
        metadata.setdefault("labels", {})[JOB_NAME] = job["metadata"]["name"]
        metadata.setdefault("annotations", {})[INDEX] = str(index)
        self.object["status"] = {"phase": "Pending", "conditions": []}
        self.log: deque[tuple[float, str]] = deque()
        self.counted = False  # by its job
        self._process: subprocess.Popen[str] | None = None
        self._end: str | None = None
        threading.Thread(target=self._live, daemon=True).start()

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    @property
    def phase(self) -> str:
        return str(self.object["status"]["phase"])

    @property
    def finished(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    @property
    def exit_code(self) -> int | None:
        for status in self.object["status"].get("containerStatuses", []):
            if "terminated" in status["state"]:
                return int(status["state"]["terminated"]["exitCode"])
        return None

    @property
    def disrupted(self) -> bool:
        return any(each["type"] == "DisruptionTarget" for each in self.object["status"]["conditions"])

    def terminate(self) -> None:
        """SIGTERM, and SIGKILL when its grace is over."""
        if self._end is None:
            self._end = "terminated"
            threading.Thread(target=self._terminate, daemon=True).start()

    def disrupt(self, reason: str, message: str, lost: bool = False) -> None:
        """What preemption, eviction and (`lost`) the end of its node do to a pod."""
        with self.cluster.changed:
            self._condition("DisruptionTarget", "True", reason, message)
        if lost and self._process:
            self._end = "lost"
            self._kill()
        else:
            self.terminate()

    def _live(self) -> None:
        while (waits := self._waits()) and self._end is None:
            time.sleep(0.05)
        if waits:
            return self._ended(None)
        container, folder = self.object["spec"]["containers"][0], self.cluster.folder / self.name
        mounts = {each["mountPath"]: folder / each["name"] for each in container.get("volumeMounts", [])}
        for mount in mounts.values():
            mount.mkdir(parents=True)
        here = self._here(container, mounts)
        command = [here(part) for part in [*container.get("command", []), *container.get("args", [])]]
        environment = {name: here(value) for name, value in self._environment(container).items()}
        environment |= self.cluster.inherited
        self._process = subprocess.Popen(
            command, cwd=here(container["workingDir"]), env=environment, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=dies_with_parent(),
        )  # fmt: skip
        self._now("Running", {"running": {"startedAt": now()}})
        assert self._process.stdout
        for line in self._process.stdout:
            self.log.append((time.time(), line.rstrip("\n")))
        self._process.wait()
        self._process.stdout.close()
        self._ended(self._process.returncode)
        return None

    def _ended(self, code: int | None) -> None:
        if code is None:
            return self._now("Failed", None)
        code = 128 - code if code < 0 else code
        terminated = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "finishedAt": now()}
        if code:  # terminationMessagePolicy: FallbackToLogsOnError
            terminated["message"] = "\n".join(line for _, line in list(self.log)[-80:])[-2048:]
        state = None if self._end == "lost" else {"terminated": terminated}
        return self._now("Failed" if code or self._end == "lost" else "Succeeded", state)

    def _waits(self) -> bool:
        """Whether it can't start yet; why is in its status."""
        container = self.object["spec"]["containers"][0]
        wanted = int(container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0))
        if wanted > self.cluster.gpus:
            message = f"0/1 nodes are available: 1 Insufficient nvidia.com/gpu ({wanted} asked for)."
            self._condition("PodScheduled", "False", "Unschedulable", message)
            return True
        self._condition("PodScheduled", "True", "", "")
        if container["image"] not in self.cluster.images:
            reason = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{container["image"]}"'}
            self._now("Pending", {"waiting": reason})
            return True
        return False

    def _environment(self, container: Manifest) -> dict[str, str]:
        """What an image has, what the pod says, and nothing of this process."""
        values = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LANG": "C.UTF-8", **self.cluster.inherited}
        for source in container.get("envFrom", []):
            if secret := source.get("secretRef"):
                values |= self.cluster.secrets.get(secret["name"], {})
            if config := source.get("configMapRef"):
                values |= self.cluster.config_maps.get(config["name"], {})
        for each in container.get("env", []):
            values[each["name"]] = str(self.index) if "valueFrom" in each else self._expand(each["value"], values)
        return values

    def _here(self, container: Manifest, mounts: dict[str, Path]) -> Callable[[str], str]:
        def here(value: str) -> str:
            value = self._expand(value, self._environment(container))
            if value.startswith(sys.prefix):  # what an image would hold; it may lie in /tmp, which is a mount
                return value
            for mount, folder in mounts.items():
                if value == mount or value.startswith(f"{mount}/"):
                    return f"{folder}{value.removeprefix(mount)}"
            return value

        return here

    @staticmethod
    def _expand(text: str, values: dict[str, str]) -> str:
        """$(NAME) is replaced if NAME stands above; else it stays."""
        return re.sub(r"\$\((\w+)\)", lambda found: values.get(found[1], found[0]), text)

    def _terminate(self) -> None:
        grace = self.object["spec"].get("terminationGracePeriodSeconds", 30)
        if self._process:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
                return
            self._kill()

    def _kill(self) -> None:
        assert self._process
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                child.kill()
        self._process.kill()

    def _now(self, phase: str, state: Manifest | None) -> None:
        with self.cluster.changed:
            self.object["status"]["phase"] = phase
            statuses = [{
                "name": self.object["spec"]["containers"][0]["name"], "ready": phase == "Running", "restartCount": 0,
                "image": "", "imageID": "", "state": state,
            }]  # fmt: skip
            self.object["status"]["containerStatuses"] = statuses if state else []
            self.cluster.changed.notify_all()

    def _condition(self, kind: str, status: str, reason: str, message: str) -> None:
        conditions = self.object["status"]["conditions"]
        conditions[:] = [each for each in conditions if each["type"] != kind]
        conditions.append({"type": kind, "status": status, "reason": reason, "message": message})


class Cluster:
    """What the API serves, and a controller that makes jobs go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.changed = threading.Condition(threading.RLock())
        self.images = {"pedigree:test"}
        self.gpus = 0
        self.secrets: dict[str, dict[str, str]] = {}
        self.config_maps: dict[str, dict[str, str]] = {}
        self.inherited: dict[str, str] = {}  # what an image would set
        self.jobs: dict[str, Manifest] = {}
        self.services: dict[str, Manifest] = {}
        self.pods: dict[str, Pod] = {}
        self.all_pods: list[Pod] = []  # those that are gone, too
        self.requests: list[str] = []
        self.faults: deque[str] = deque()  # of the next requests: 503, drop
        self.cut_watches = False
        self._version = 0
        self._events: deque[tuple[int, str, Manifest]] = deque(maxlen=HISTORY)
        self._failed: dict[str, Manifest] = {}  # the condition that a job gets when its pods have ended
        threading.Thread(target=self._control, daemon=True).start()

    def kubeconfig(self, path: Path, url: str, token: str = TOKEN) -> Path:
        """Write what a client needs to know into `path`."""
        path.write_text(
            yaml.safe_dump({
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "tests",
                "contexts": [{"name": "tests", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": token}}],
            })
        )  # fmt: skip
        return path

    def create(self, kind: str, manifest: Manifest) -> Manifest:
        kept = self.jobs if kind == "jobs" else self.services
        try:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refused(422, "Invalid", f"{kind} is invalid: {error.message}") from None
        with self.changed:
            name = manifest["metadata"]["name"]
            if name in kept:
                raise Refused(409, "AlreadyExists", f'{kind} "{name}" already exists')
            if kind == "jobs" and len(f"{name}-{manifest['spec'].get('completions', 1)}") > 63:
                raise Refused(422, "Invalid", "metadata.name: must be no more than 63 characters")
            manifest["metadata"] |= {"namespace": NAMESPACE, "uid": uuid4().hex, "creationTimestamp": now()}
            kept[name] = manifest
            if kind == "jobs":
                manifest["status"] = {"startTime": now()}
                self._publish("ADDED", manifest)
            return copy.deepcopy(manifest)

    def delete(self, name: str, propagation: str) -> Manifest:
        with self.changed:
            job = self.jobs.get(name)
            if not job:
                raise Refused(404, "NotFound", f'jobs.batch "{name}" not found')
            if propagation == "Foreground":
                job["metadata"].setdefault("deletionTimestamp", now())
                job["metadata"]["finalizers"] = ["foregroundDeletion"]
                self._publish("MODIFIED", job)
            else:
                self._remove(name)
            for pod in self.pods_of(name):
                pod.terminate()
            return copy.deepcopy(job)

    def pods_of(self, job: str) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.object["metadata"]["labels"][JOB_NAME] == job]

    def pod(self) -> Pod:
        """The newest pod, once it runs."""
        self.until(lambda: bool(self.pods) and list(self.pods.values())[-1].phase == "Running")
        return list(self.pods.values())[-1]

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds`."""
        end = time.monotonic() + 120
        with self.changed:
            while not holds():
                assert time.monotonic() < end, "the cluster stands still"
                self.changed.wait(0.1)

    def compact(self) -> None:
        """Forget what happened, so that no watch can go on from before."""
        with self.changed:
            self._version += 1
            self._events.clear()
            self._events.append((self._version, "COMPACTED", {"metadata": {"name": ""}}))

    def events_after(self, version: int, name: str) -> list[tuple[int, str, Manifest]]:
        if self._events and self._events[0][0] > version + 1 and version < self._events[0][0]:
            raise Refused(410, "Expired", f"too old resource version: {version} ({self._events[0][0]})")
        return [each for each in self._events if each[0] > version and each[2]["metadata"]["name"] == name]

    def _publish(self, kind: str, job: Manifest) -> None:
        self._version += 1
        job["metadata"]["resourceVersion"] = str(self._version)
        self._events.append((self._version, kind, copy.deepcopy(job)))
        self.changed.notify_all()

    def _remove(self, name: str) -> None:
        job = self.jobs.pop(name)
        self.services = {
            each: service for each, service in self.services.items()
            if all(owner["uid"] != job["metadata"]["uid"] for owner in service["metadata"].get("ownerReferences", []))
        }  # fmt: skip
        self._failed.pop(name, None)
        self._publish("DELETED", job)

    def _control(self) -> None:
        with self.changed:
            while True:
                for job in list(self.jobs.values()):
                    self._go_on(job)
                self.changed.wait(0.1)

    def _go_on(self, job: Manifest) -> None:
        name, spec, status = job["metadata"]["name"], job["spec"], job["status"]
        pods = self.pods_of(name)
        if "deletionTimestamp" in job["metadata"]:
            for pod in [pod for pod in pods if pod.finished]:
                del self.pods[pod.name]
            if not self.pods_of(name):
                self._remove(name)
            return
        if "conditions" in status:
            return
        for pod in [pod for pod in pods if pod.finished and not pod.counted]:
            self._count(job, pod)
        begun = datetime.fromisoformat(status["startTime"]).timestamp()
        if time.time() - begun > spec.get("activeDeadlineSeconds", float("inf")) and name not in self._failed:
            message = "Job was active longer than specified deadline"
            self._failed[name] = {"reason": "DeadlineExceeded", "message": message}
        self._finish(job) if name in self._failed or self._succeeded(job) else self._replace(job)

    def _replace(self, job: Manifest) -> None:
        pods = self.pods_of(job["metadata"]["name"])
        for index in range(job["spec"].get("completions", 1)):
            if all(pod.phase == "Failed" for pod in pods if pod.index == index):
                pod = Pod(self, job, index)
                self.pods[pod.name] = pod
                self.all_pods.append(pod)
                job["status"]["active"] = job["spec"].get("parallelism", 1)
                self._publish("MODIFIED", job)

    def _succeeded(self, job: Manifest) -> bool:
        done = {pod.index for pod in self.pods_of(job["metadata"]["name"]) if pod.phase == "Succeeded"}
        return len(done) == job["spec"].get("completions", 1)

    def _finish(self, job: Manifest) -> None:
        pods = self.pods_of(job["metadata"]["name"])
        for pod in pods:
            pod.terminate()
        if all(pod.finished for pod in pods):
            failed = self._failed.pop(job["metadata"]["name"], None)
            kind = {"type": "Failed", **failed} if failed else {"type": "Complete"}
            job["status"]["conditions"] = [{"status": "True", **kind}]
            self._publish("MODIFIED", job)

    def _count(self, job: Manifest, pod: Pod) -> None:
        """What the job's policy says of a pod that has ended."""
        pod.counted, status = True, job["status"]
        if pod.phase == "Succeeded" or pod.object["metadata"]["labels"][JOB_NAME] in self._failed:
            return
        rules = job["spec"].get("podFailurePolicy", {}).get("rules", [])
        number, action = next(
            ((number, rule["action"]) for number, rule in enumerate(rules) if matches(rule, pod)), (-1, "Count")
        )
        if action == "FailJob":
            what = f"Container stage for pod {NAMESPACE}/{pod.name} failed with exit code {pod.exit_code}"
            if "onPodConditions" in rules[number]:
                what = f"Pod {NAMESPACE}/{pod.name} has condition DisruptionTarget"
            message = f"{what} matching FailJob rule at index {number}"
            self._failed[job["metadata"]["name"]] = {"reason": "PodFailurePolicy", "message": message}
        if action == "Count":
            status["failed"] = status.get("failed", 0) + 1
            if status["failed"] > job["spec"].get("backoffLimit", 6):
                message = "Job has reached the specified backoff limit"
                self._failed[job["metadata"]["name"]] = {"reason": "BackoffLimitExceeded", "message": message}


def matches(rule: Manifest, pod: Pod) -> bool:
    if "onPodConditions" in rule:
        return pod.disrupted
    given = rule["onExitCodes"]
    return bool(pod.exit_code) and (pod.exit_code in given["values"]) == (given["operator"] == "In")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def stamp(moment: float) -> str:
    """As kubelets write it: with nanoseconds, without the zeros at the end."""
    text = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".") + "Z"


class Handler(BaseHTTPRequestHandler):
    """One connection to the API."""

    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, query = urlsplit(self.path).path, dict(parse_qsl(urlsplit(self.path).query))
        self.cluster.requests.append(f"{self.command} {self.path}")
        try:
            if self.cluster.faults:
                self._fault(self.cluster.faults.popleft())
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized", "Unauthorized")
            self._route(path, query, json.loads(body or "{}"))
        except Refused as refused:
            self._send(json.dumps(refused.status), refused.status["code"])
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _fault(self, fault: str) -> None:
        if fault == "drop":
            self.connection.close()
            raise ConnectionAbortedError
        raise Refused(int(fault), "ServiceUnavailable", "the server is currently unable to handle the request")

    def _route(self, path: str, query: dict[str, str], body: Manifest) -> None:
        found = re.fullmatch(r"/apis?(?:/batch)?/v1/namespaces/([^/]+)/(jobs|pods|services)(?:/([^/]+))?(/log)?", path)
        if not found or (path.startswith("/apis/batch") != (found[2] == "jobs")):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        namespace, kind, name, log = found.groups()
        if namespace != NAMESPACE:
            raise Refused(403, "Forbidden", f'{kind} is forbidden: no rights in the namespace "{namespace}"')
        match self.command, kind, name:
            case "POST", "jobs" | "services", None:
                self._send(json.dumps(self.cluster.create(kind, body)), 201)
            case "GET", "jobs", None if query.get("watch", "").lower() == "true":
                self._watch(query)
            case "GET", "jobs", str():
                self._send(json.dumps(self._job(name)))
            case "DELETE", "jobs", str():
                propagation = body.get("propagationPolicy") or query.get("propagationPolicy") or "Background"
                self._send(json.dumps(self.cluster.delete(name, propagation)))
            case "GET", "pods", None:
                self._send(json.dumps(self._pods(query["labelSelector"])))
            case "GET", "pods", str() if log:
                self._send(self._log(name, query), content="text/plain")
            case _:
                raise Refused(405, "MethodNotAllowed", f"{self.command} {path}")

    def _job(self, name: str) -> Manifest:
        with self.cluster.changed:
            if name not in self.cluster.jobs:
                raise Refused(404, "NotFound", f'jobs.batch "{name}" not found')
            return copy.deepcopy(self.cluster.jobs[name])

    def _pods(self, selector: str) -> Manifest:
        label, _, job = selector.partition("=")
        assert label == JOB_NAME, selector
        with self.cluster.changed:
            items = [copy.deepcopy(pod.object) for pod in self.cluster.pods_of(job)]
        return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}

    def _log(self, name: str, query: dict[str, str]) -> str:
        pod = self.cluster.pods.get(name)
        if not pod:
            raise Refused(404, "NotFound", f'pods "{name}" not found')
        lines = list(pod.log)
        if since := query.get("sinceSeconds"):
            lines = [each for each in lines if each[0] >= time.time() - int(since)]
        lines = lines[-int(query.get("tailLines", len(lines) or 1)) :]
        return "".join(f"{stamp(moment)} {line}\n" for moment, line in lines)

    def _watch(self, query: dict[str, str]) -> None:
        name, version = query["fieldSelector"].removeprefix("metadata.name="), int(query["resourceVersion"])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        until = time.monotonic() + int(query.get("timeoutSeconds", 60))
        while (left := until - time.monotonic()) > 0:
            if self.cluster.cut_watches:
                self.connection.close()
                raise ConnectionAbortedError
            try:
                with self.cluster.changed:
                    if not (events := self.cluster.events_after(version, name)):
                        self.cluster.changed.wait(min(left, 0.1))
            except Refused as refused:
                self._chunk({"type": "ERROR", "object": refused.status})
                break
            for version, kind, job in events:  # noqa: B007
                self._chunk({"type": kind, "object": job})
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, event: Manifest) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def _send(self, text: str, code: int = 200, content: str = "application/json") -> None:
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", content)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def kubernetes_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of the test's own, which KUBECONFIG names."""
    cluster = Cluster(tmp_path / "pods")
    handler = type("HandlerOfOne", (Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig", url)))
    yield cluster
    server.shutdown()
    server.server_close()
    for pod in cluster.all_pods:
        if pod._process and pod._process.poll() is None:
            os.killpg(pod._process.pid, signal.SIGKILL)
