"""The Kubernetes files: each object is what the API accepts, and they fit each other and the place that uses them."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flows.places import Errand
from flows.places.job import job, obstacle, service, verdict
from flows.places.kubernetes import read_template
from flows.places.settings import KubernetesResources
from flows.settings import FlowSettings
from flows.stage import GRACE_SECONDS
from stages.settings import Settings

FOLDER = Path(__file__).parents[2] / "infra" / "kubernetes"
VERSIONS = ("1.31", "1.37")  # what the files need is stable since 1.31
TEMPLATE = read_template(FOLDER / "job.yaml")
ERRAND = Errand("extract@papers", "d" * 64, "c" * 40, "s3://corpus/dvc", Path("log"))


def read(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each["kind"] != "Kustomization"]


OBJECTS = [(path.name, each) for path in sorted(FOLDER.rglob("*.yaml")) for each in read(path)]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"].get("name", ""): each for _, each in OBJECTS if each["kind"] == kind}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pods of everything that makes some."""
    for kind in ("Job", "Deployment", "StatefulSet"):
        for name, each in of_kind(kind).items():
            yield name or "stage", each["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_each_object(version):
    assert len(OBJECTS) > 12
    for name, each in OBJECTS:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{name}: {each['kind']}: {error.message}")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "asked",
    [{}, {"cpus": 8, "memory_gib": 1.5, "disk_gib": 100, "gpus": 2, "hours": 0.5}, {"nodes": 4, "gpus": 8}],
    ids=["nothing", "all", "nodes"],
)
def test_kubernetes_accepts_the_job_of_a_stage(asked, version):
    resources = KubernetesResources.model_validate({"place": "kubernetes", "image": "pedigree:cpu", **asked})

    made = job(ERRAND, resources, TEMPLATE)

    kubernetes_validate.validate(made, version, strict=True)
    made["metadata"]["uid"] = "u"
    if beside := service(made):
        kubernetes_validate.validate(beside, version, strict=True)
    assert len(f"{made['metadata']['name']}-{resources.nodes}") <= 63
    [container] = made["spec"]["template"]["spec"]["containers"]
    assert container["args"][:6] == ["pedigree", "stage", "c" * 40, "extract@papers", "--remote", "s3://corpus/dvc"]


def test_a_stage_gets_what_it_asks_for():
    given = {"cpus": 8, "memory_gib": 1.5, "gpus": 2, "hours": 0.5, "environment": {"PEDIGREE_MICRO_BATCH": "4"}}
    resources = KubernetesResources.model_validate({"place": "kubernetes", "image": "pedigree:cuda", **given})

    spec = job(ERRAND, resources, TEMPLATE)["spec"]

    [container] = spec["template"]["spec"]["containers"]
    assert spec["activeDeadlineSeconds"] == 1800
    assert container["image"] == "pedigree:cuda"
    assert container["resources"] == {
        "requests": {"cpu": "8", "memory": "1536Mi"},
        "limits": {"memory": "1536Mi", "nvidia.com/gpu": "2"},
    }
    assert {"name": "PEDIGREE_MICRO_BATCH", "value": "4"} in container["env"]
    assert {"name": "PEDIGREE_WORKERS", "value": "8"} in container["env"]
    assert [each["key"] for each in spec["template"]["spec"]["tolerations"]] == ["nvidia.com/gpu"]


def test_a_stage_without_gpus_stays_off_the_machines_that_have_some():
    resources = KubernetesResources.model_validate({"place": "kubernetes", "image": "pedigree:cpu"})

    assert job(ERRAND, resources, TEMPLATE)["spec"]["template"]["spec"]["tolerations"] == []


def test_a_stage_can_save_before_it_is_killed():
    spec = TEMPLATE["spec"]["template"]["spec"]
    volumes = {each["name"]: each for each in spec["volumes"]}
    mounts = {each["mountPath"]: volumes[each["name"]] for each in spec["containers"][0]["volumeMounts"]}

    assert spec["terminationGracePeriodSeconds"] > 2 * GRACE_SECONDS
    assert mounts["/dev/shm"]["emptyDir"] == {"medium": "Memory"}
    assert "/scratch" in mounts


def test_no_pod_may_more_than_it_must():
    found = dict(pods())

    assert set(found) == {"stage", "worker", "prefect", "postgres"}
    for name, pod in found.items():
        user = pod["securityContext"]
        assert user["runAsNonRoot"], name
        assert user["runAsUser"] == user["runAsGroup"] == user["fsGroup"] != 0, name
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is (name == "worker")
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_secrets_stand_in_no_file():
    for path in FOLDER.rglob("*.yaml"):
        for line in path.read_text().splitlines():
            assert not re.search(r"(PASSWORD|ACCESS_KEY|ACCESS_KEY_ID|WEBHOOK)(, value:|=|: )", line), path
    assert not of_kind("Secret")


def test_what_a_pod_mounts_and_whom_it_asks_is_there():
    for name, pod in pods():
        volumes = {each["name"] for each in pod.get("volumes", [])}
        volumes |= {
            claim["metadata"]["name"]
            for each in of_kind("StatefulSet").values()
            for claim in each["spec"]["volumeClaimTemplates"]
        }
        for container in pod["containers"]:
            assert {each["name"] for each in container.get("volumeMounts", [])} <= volumes, name
        for each in pod.get("volumes", []):
            if claim := each.get("persistentVolumeClaim"):
                assert claim["claimName"] in of_kind("PersistentVolumeClaim")
        if account := pod.get("serviceAccountName"):
            assert account in of_kind("ServiceAccount")
    labels = {each["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] for each in _workloads()}
    for each in of_kind("Service").values():
        assert each["spec"]["selector"]["app.kubernetes.io/name"] in labels


def _workloads() -> list[dict[str, Any]]:
    return [*of_kind("Deployment").values(), *of_kind("StatefulSet").values()]


def test_settings_are_those_that_are_read():
    known = {f"PEDIGREE_{name.upper()}" for name in Settings.model_fields}
    known |= {f"PEDIGREE_FLOW_{name.upper()}" for name in FlowSettings.model_fields}
    for path in FOLDER.rglob("*.yaml"):
        for name in re.findall(r"(?:name: |- )(PEDIGREE_[A-Z_]+)[=,]", path.read_text()):
            assert name in known, f"{path.name}: {name}"


@pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl, which has kustomize in it")
def test_the_example_can_be_rendered_and_is_complete():
    done = subprocess.run(["kubectl", "kustomize", FOLDER / "example"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    for each in rendered:
        kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "pedigree"
    kinds = sorted(each["kind"] for each in rendered)
    assert kinds.count("ConfigMap") == 2
    assert set(of_kind("Deployment")) <= {each["metadata"]["name"] for each in rendered}
    assert "image: pedigree\n" not in done.stdout
    assert "name: pedigree-stages\n" in done.stdout


CONDITION = {"status": "True", "type": "Failed"}


@pytest.mark.parametrize(
    ("condition", "terminated", "expected"),
    [
        ({"type": "Complete"}, [], (0, "")),
        ({"reason": "DeadlineExceeded"}, [75], (None, "its time was up")),
        ({"reason": "PodFailurePolicy", "message": "… failed with exit code 2 matching FailJob rule …"}, [2], (2, "")),
        # The first one that failed, not those that were ended for its sake.
        ({"reason": "BackoffLimitExceeded", "message": "limit"}, [1, 75], (1, "")),
        ({"reason": "PodFailurePolicy", "message": "Pod p has condition DisruptionTarget …"}, [1], (None, "a pod was")),
        ({"reason": "BackoffLimitExceeded", "message": "no pod is left to ask"}, [], (None, "no pod is left")),
    ],
)
def test_how_a_job_ended_is_read_from_what_it_and_its_pods_say(condition, terminated, expected):
    ended = [
        {"metadata": {}, "status": {"containerStatuses": [
            {"name": "stage", "state": {"terminated": {"exitCode": code, "finishedAt": f"2026-01-01T00:00:0{at}Z"}}}
        ]}} for at, code in enumerate(terminated)
    ]  # fmt: skip

    found = verdict({"status": {"conditions": [CONDITION | condition]}}, ended[::-1])

    assert found
    assert found.code == expected[0]
    assert found.why.startswith(expected[1])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "401"}}}]}, "image"),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "CreateContainerConfigError"}}}]}, "configuration"),
        ({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}, "room"),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, None),
    ],
)
def test_what_keeps_a_pod_from_starting_is_known(status, kind):
    found = obstacle({"status": status})

    assert (found and found[0]) == kind
