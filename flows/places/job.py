"""The Kubernetes job of an errand, and what a job and its pods say of how it went. Values only: nothing is asked here.

Everything is as the API has it in JSON, so that a manifest reads here as it does in infra/kubernetes/job.yaml.
"""

import copy
import hashlib
import re
from dataclasses import dataclass
from typing import Any

from flows.places import Errand
from flows.places.settings import KubernetesResources
from stages.params import Refusal

Manifest = dict[str, Any]

CONTAINER = "stage"
GPU = "nvidia.com/gpu"
INDEX = "batch.kubernetes.io/job-completion-index"
JOB_NAME = "batch.kubernetes.io/job-name"
RENDEZVOUS_PORT = 29500

_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_CONFIGURATION = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_EXIT_CODE = re.compile(r"exit code (\d+)")


@dataclass(frozen=True)
class Verdict:
    """How a job ended: with the exit code of its stage, or (None) interrupted by what `why` says."""

    code: int | None
    why: str = ""


def job_name(errand: Errand) -> str:
    """The name of its job: the same for the same work, whoever asks for it, so that nobody starts it twice."""
    stage = re.sub(r"[^a-z0-9]+", "-", errand.stage.lower()).strip("-")[:24].rstrip("-")
    work = f"{errand.digest}\0{errand.remote}"  # another store wants the outs for itself
    return f"pedigree-{stage}-{hashlib.sha256(work.encode()).hexdigest()[:12]}"


def job(errand: Errand, resources: KubernetesResources, template: Manifest) -> Manifest:
    """The job of `errand`: `template` with what the stage and its place add.

    Raises:
        Refusal: if the template has no container `stage`.
    """
    made = copy.deepcopy(template)
    metadata, spec = made.setdefault("metadata", {}), made["spec"]
    metadata["name"] = job_name(errand)
    metadata.setdefault("annotations", {}).update({
        "pedigree/stage": errand.stage, "pedigree/commit": errand.commit, "pedigree/digest": errand.digest,
    })  # fmt: skip
    pod = spec["template"]["spec"]
    container = _container(pod, resources)
    machine = ["--machine", "$(NODE_RANK)"] if resources.nodes > 1 else []
    container |= {"image": resources.image, "args": [*errand.command(), *machine]}
    container["env"] = [*container.get("env", []), *_environment(errand, resources)]
    container["resources"] = _resources(container.get("resources", {}), resources)
    if not resources.gpus:
        pod["tolerations"] = [each for each in pod.get("tolerations", []) if each.get("key") != GPU]
    if resources.hours:
        spec["activeDeadlineSeconds"] = round(resources.hours * 3600)
    if resources.nodes > 1:
        _spread(spec, job_name(errand), resources.nodes)
    return made


def service(job: Manifest) -> Manifest | None:
    """What makes the pods of a job of several nodes find each other by name; it goes when its job does."""
    if "completions" not in job["spec"]:
        return None
    metadata = job["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": metadata["name"], "labels": metadata.get("labels", {}), "ownerReferences": [owner]},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {JOB_NAME: metadata["name"]},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }


def verdict(job: Manifest, pods: list[Manifest]) -> Verdict | None:
    """How `job` ended; None while it goes on."""
    conditions = {
        each["type"]: each for each in job.get("status", {}).get("conditions", []) if each["status"] == "True"
    }
    if "Complete" in conditions:
        return Verdict(0)
    if not (failed := conditions.get("Failed")):
        return None
    reason, message = failed.get("reason", ""), failed.get("message", "")
    if reason == "DeadlineExceeded":
        return Verdict(None, "its time was up")
    if reason == "PodFailurePolicy" and "DisruptionTarget" in message:
        return Verdict(None, next((why for pod in pods if (why := disruption(pod))), "a pod was disrupted"))
    code = int(found[1]) if (found := _EXIT_CODE.search(message)) else _first_code(pods)
    return Verdict(code, "") if code else Verdict(None, message or reason or "it failed without a reason")


def obstacle(pod: Manifest) -> tuple[str, str] | None:
    """What keeps `pod` from starting: ("image" or "configuration" or "room", the cluster's own words)."""
    status = pod.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting") or {}
        said = f"{waiting.get('reason', '')}: {waiting.get('message', '')}".rstrip(": ")
        if waiting.get("reason") in _IMAGE:
            return "image", said
        if waiting.get("reason") in _CONFIGURATION:
            return "configuration", said
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return "room", condition.get("message") or condition.get("reason", "")
    return None


def disruption(pod: Manifest) -> str:
    """Why the cluster ended `pod`: preempted, evicted, its node lost; empty if it didn't."""
    status = pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return ": ".join(filter(None, [condition.get("reason", ""), condition.get("message", "")]))
    return status.get("reason", "") if status.get("reason") in ("Evicted", "NodeLost", "Preempting") else ""


def started(pod: Manifest) -> bool:
    """Whether the stage's container has a log."""
    return any("running" in each or "terminated" in each for each in _states(pod))


def last_words(pod: Manifest) -> str:
    """The end of what a container said, kept by the cluster where its log may be gone."""
    return next((each["terminated"].get("message", "") for each in _states(pod) if "terminated" in each), "")


def index(pod: Manifest) -> int:
    """Which of the nodes of its job a pod is; 0 if there is one."""
    return int(pod["metadata"].get("annotations", {}).get(INDEX, 0))


def _container(pod: Manifest, resources: KubernetesResources) -> Manifest:
    for container in pod["containers"]:
        if container["name"] == CONTAINER:
            found: Manifest = container
            return found
    raise Refusal(f"{resources.template}: no container is named `{CONTAINER}`; name the one that runs the stage so")


def _environment(errand: Errand, resources: KubernetesResources) -> list[Manifest]:
    values = dict(resources.environment)
    if resources.cpus:  # without it a data stage would start a process for each processor of the node
        values.setdefault("PEDIGREE_WORKERS", str(resources.cpus))
    if resources.nodes == 1:
        return [{"name": name, "value": value} for name, value in values.items()]
    name = job_name(errand)
    values.setdefault("PEDIGREE_LAUNCH", f"--num_processes {resources.nodes * max(resources.gpus, 1)}")
    values["PEDIGREE_LAUNCH"] += (
        f" --num_machines {resources.nodes} --machine_rank $(NODE_RANK)"
        f" --main_process_ip $(MASTER_ADDR) --main_process_port {RENDEZVOUS_PORT}"
    )
    rank = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
    # Before what refers to them: $(NAME) is replaced only by what stands above it.
    return [
        {"name": "NODE_RANK", "valueFrom": rank},
        {"name": "MASTER_ADDR", "value": f"{name}-0.{name}"},
        *({"name": name, "value": value} for name, value in values.items()),
    ]


def _resources(given: Manifest, resources: KubernetesResources) -> Manifest:
    requests, limits = dict(given.get("requests", {})), dict(given.get("limits", {}))
    if resources.cpus:
        requests["cpu"] = str(resources.cpus)  # no limit: a stage may use what nobody else does
    if resources.memory_gib:
        requests["memory"] = limits["memory"] = f"{round(resources.memory_gib * 1024)}Mi"
    if resources.disk_gib:
        requests["ephemeral-storage"] = limits["ephemeral-storage"] = f"{round(resources.disk_gib * 1024)}Mi"
    if resources.gpus:
        limits[GPU] = str(resources.gpus)
    return {"requests": requests, "limits": limits}


def _spread(spec: Manifest, name: str, nodes: int) -> None:
    """One pod for each node, found by the others as NAME-0.NAME and so on.

    They train together, so none can go on without the others: whatever ends one ends the job, which is made again.
    """
    spec |= {"completionMode": "Indexed", "completions": nodes, "parallelism": nodes, "backoffLimit": 0}
    spec["template"]["spec"]["subdomain"] = name
    spec["podFailurePolicy"] = {
        "rules": [
            {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": [0]}},
        ]
    }
    apart = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {JOB_NAME: name}},
    }
    spec["template"]["spec"].setdefault("topologySpreadConstraints", [apart])


def _first_code(pods: list[Manifest]) -> int | None:
    """The exit code of the container that failed first: what came after may be its consequence."""
    ends = [each["terminated"] for pod in pods for each in _states(pod) if "terminated" in each]
    failed = sorted((each.get("finishedAt") or "", each["exitCode"]) for each in ends if each["exitCode"])
    return int(failed[0][1]) if failed else None


def _states(pod: Manifest) -> list[Manifest]:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return [each["state"] for each in statuses if each["name"] == CONTAINER and each.get("state")]
