"""Which stage runs where, and with what: infra/places.yaml.

Like the environment, it never changes a byte of a data artifact; unlike it, it is the same for a whole team.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from flows.settings import FlowSettings, flow_settings
from stages.params import Refusal, StageParams, parse_params, read_params


class Here(StageParams):
    """On this machine, as a child of the flow."""

    place: Literal["here"] = "here"


class Resources(StageParams):
    """What a stage gets elsewhere, whatever the place; per node where there are several."""

    model_config = ConfigDict(strict=True)

    cpus: int | None = Field(None, ge=1, description="processors")
    memory_gib: float | None = Field(None, gt=0, description="memory, GiB")
    gpus: int = Field(0, ge=0, description="GPUs")
    nodes: int = Field(1, ge=1, description="machines; more than one: pretrain is launched on each of them")
    hours: float | None = Field(None, gt=0, description="longest time; the stage saves before it, and comes again")
    environment: dict[str, str] = Field({}, description="settings of the stage there: PEDIGREE_* only, never a secret")


class SlurmResources(Resources):
    """A job of a Slurm cluster, one node of an array."""

    place: Literal["slurm"]
    partition: str | None = Field(None, description="`sbatch --partition`")
    account: str | None = Field(None, description="`sbatch --account`")
    qos: str | None = Field(None, description="`sbatch --qos`")
    constraint: str | None = Field(None, description="`sbatch --constraint`")
    program: str = Field("pedigree", min_length=1, description="the command line of this project on the node")
    node_environment: str = Field("", description="file on the node with NAME=value lines, credentials among them")
    log_folder: str = Field("", description="folder that this machine and the nodes share, for logs; empty: none")
    save_seconds: int = Field(60, ge=1, description="how long before its time limit a stage is told to save")
    restarts: int = Field(100, ge=0, description="how often one job comes again after it saved")


class KubernetesResources(Resources):
    """A Kubernetes Job, made of `template`."""

    place: Literal["kubernetes"]
    image: str = Field(min_length=1, description="the image of infra/docker, by tag or digest")
    namespace: str | None = Field(None, description="namespace; none: that of the kubeconfig or of the pod")
    context: str | None = Field(None, description="context of the kubeconfig; none: the current one")
    template: str = Field("infra/kubernetes/job.yaml", description="the job that all this is added to")
    disk_gib: float | None = Field(None, gt=0, description="disk for the clone and its cache, GiB")
    wait_minutes: float = Field(720, gt=0, description="longest wait for a node that has room")
    restarts: int = Field(100, ge=0, description="how often one job is made again after it was interrupted")


Where = Here | SlurmResources | KubernetesResources
MODELS: dict[str, type[Where]] = {"here": Here, "slurm": SlurmResources, "kubernetes": KubernetesResources}


@dataclass(frozen=True)
class Places:
    """For each stage pattern its place, in the order of the file."""

    path: Path
    patterns: dict[str, Where]

    def of(self, stage: str) -> Where:
        """Where `stage` runs: what the first pattern says that fits it; here, if none does."""
        return next((where for pattern, where in self.patterns.items() if fnmatchcase(stage, pattern)), Here())

    def check(self, stages: Iterable[str]) -> None:
        """Refuse a pattern that fits none of `stages`: most likely it is misspelt, and its stage would run here."""
        names = list(stages)
        for pattern in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise Refusal(
                    f"{self.path}: stages.{pattern} fits no stage of dvc.yaml; remove it or correct it "
                    f"(stages are named such as {', '.join(names[:3])})"
                )


def read_places(root: Path = Path()) -> Places:
    """The places of the project at `root`; everything runs here if the default file is missing.

    Raises:
        Refusal: if the file that PEDIGREE_FLOW_PLACES names is missing, or a file has an unknown or impossible value.
    """
    given = flow_settings().places
    path = root / given
    if given == FlowSettings.model_fields["places"].default and not path.exists():
        return Places(given, {})
    sections = read_params(path)
    if set(sections) != {"stages"} or not isinstance(sections["stages"], dict):
        found = ", ".join(map(str, sections)) or "nothing"
        raise Refusal(
            f"{given} must hold `stages`, a mapping of stage patterns to places, and nothing else; it has {found}"
        )
    return Places(
        given, {str(name): _where(values, f"{given}: stages.{name}") for name, values in sections["stages"].items()}
    )


def _where(values: object, at: str) -> Where:
    if not isinstance(values, dict):
        raise Refusal(f"{at} is {values!r}; it must map `place` to one of {', '.join(MODELS)}, and list its resources")
    place = values.get("place")
    if place not in MODELS:
        raise Refusal(f"{at}.place is {place!r}; make it one of {', '.join(MODELS)}")
    # Not by validators: they repeat what they refuse, which may be a secret here.
    environment = values.get("environment")
    names = environment if isinstance(environment, dict) else ()
    if strangers := [name for name in names if not str(name).startswith("PEDIGREE_")]:
        raise Refusal(
            f"{at}.environment takes PEDIGREE_ settings only, not {', '.join(map(str, strangers))}; "
            "remove it: credentials and endpoints come from the node's own environment"
        )
    where = parse_params(MODELS[place], values, at)
    if isinstance(where, SlurmResources) and where.hours and where.hours * 3600 <= where.save_seconds:
        raise Refusal(f"{at}.save_seconds is {where.save_seconds}; make it less than its hours ({where.hours})")
    return where
