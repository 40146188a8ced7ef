"""Where and how fast a stage runs: the environment, read once. Nothing here may change a byte of a data artifact."""

import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator

from stages.params import Refusal, StageParams

PREFIX = "PEDIGREE_"
# What only flows read stands in flows/settings.py: a setting more there must not make any stage run again.
FLOW_PREFIX = "PEDIGREE_FLOW_"

S = TypeVar("S", bound=StageParams)


class Settings(StageParams):
    """The variables PEDIGREE_* of stages, in lower case and without the prefix. docs/settings.md is their table."""

    workers: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, description="processes of a data stage"
    )
    dask: str = Field(
        "",
        description="where data stages run instead of on this machine's processes: the scheduler of a Dask cluster "
        "(`tcp://HOST:8786`), or `slurm:JOBS` (docs/scale.md)",
    )
    scratch: str = Field(
        "scratch",
        min_length=1,
        description="where work in progress is kept: a folder, or an object store (`s3://BUCKET/PREFIX`) for "
        "checkpoints that another node can go on from",
    )
    requests_per_second: str = Field(
        "",
        description="how often download and extract may ask a server: `4`, or by source: `4,web=0.5`; empty: as often "
        "as they can",
    )
    launch: str = Field("", description="arguments of `accelerate launch` for pretrain; empty: one process")
    parallel: str = Field(
        "",
        description="how the processes of pretrain share the model: `dp_shard=8` (FSDP2), "
        "`dp_replicate=4,dp_shard=8` (HSDP), `tp=8` (layers), `cp=2` (samples); empty: each has it whole (DDP)",
    )
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        16, description="samples that pretrain computes at once, per process; `auto`: as many as fit"
    )
    recompute: bool = Field(
        False, description="compute the inside of each layer twice in pretrain, to keep less memory"
    )
    checkpoint_seconds: float = Field(
        30.0, ge=0, description="least time between the end of a checkpoint in scratch and the next"
    )
    kept_checkpoints: int = Field(2, ge=1, description="how many of the newest checkpoints scratch keeps")
    hang_seconds: float = Field(
        1800.0,
        ge=0,
        description="time without a step after which pretrain says where it hangs, and ends with 75; 0: never",
    )
    trackers: str = Field(
        "", description="where pretrain's progress goes, too: `tensorboard`, `wandb`, `mlflow`, with commas between"
    )
    profile: str = Field("", description="steps of which pretrain writes a profile into scratch, as `10:20`")
    tokens: str = Field(
        "", description="file or URL of a map of token shards that aren't here to where they are (docs/pretraining.md)"
    )

    @field_validator("requests_per_second")
    @classmethod
    def _is_a_pace(cls, value: str) -> str:
        _paces(value)
        return value

    def allowed_requests(self, source: str) -> float | None:
        """How many requests a second may be made for `source`; None: as many as one likes."""
        paces = _paces(self.requests_per_second)
        return paces.get(source, paces.get(""))

    @property
    def scratch_folder(self) -> Path:
        """The folder on this machine for work in progress: scratch itself, or what is on its way to it."""
        return Path("scratch" if self.scratch_url else self.scratch)

    @property
    def scratch_url(self) -> str | None:
        """Where scratch is, if it is an object store."""
        return self.scratch.rstrip("/") if "://" in self.scratch else None


def _paces(value: str) -> dict[str, float]:
    """Requests a second by source; those of all others by the empty name."""
    paces = {}
    for part in filter(None, value.split(",")):
        source, _, number = part.rpartition("=")
        try:
            paces[source.strip()] = float(number)
        except ValueError:
            raise ValueError(f"{part.strip()!r} is not a number, or SOURCE=NUMBER") from None
        if not 0 < paces[source.strip()] < float("inf"):
            raise ValueError(f"{part.strip()!r} is not more than 0")
    return paces


def settings() -> Settings:
    """The settings of this process.

    Raises:
        Refusal: if a PEDIGREE_ variable is unknown or has an impossible value.
    """
    return read_settings(Settings, PREFIX, but=FLOW_PREFIX)


def read_settings(model: type[S], prefix: str, but: str | None = None) -> S:
    """The variables of the environment that begin with `prefix` (and not with `but`), as a `model`.

    Raises:
        Refusal: if one of them is unknown or has an impossible value, which isn't repeated: it may be a secret.
    """
    names = [name for name in os.environ if name.startswith(prefix) and not (but and name.startswith(but))]
    try:
        return model.model_validate({name.removeprefix(prefix).lower(): os.environ[name] for name in names})
    except ValidationError as error:
        problem = error.errors()[0]
        name = prefix + str(problem["loc"][0]).upper()
        if problem["type"] == "extra_forbidden":
            known = ", ".join(prefix + field.upper() for field in model.model_fields)
            raise Refusal(f"environment variable {name} is unknown; unset it or correct it (known: {known})") from None
        raise Refusal(f"environment variable {name}: {problem['msg']}") from None
