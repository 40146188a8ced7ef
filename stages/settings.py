"""Where and how fast things run: the environment, read once. Nothing here may change a byte of a data artifact."""

import os
from pathlib import Path

from pydantic import Field, ValidationError

from stages.params import Refusal, StageParams

PREFIX = "PEDIGREE_"


class Settings(StageParams):
    """The variables PEDIGREE_*, in lower case and without the prefix. docs/settings.md is their table."""

    workers: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, description="processes of a data stage"
    )
    scratch: Path = Field(Path("scratch"), description="folder for work in progress: checkpoints, partial downloads")
    slots: int = Field(2, ge=1, description="stages that a flow runs side by side on the processors")
    launch: str = Field("", description="arguments of `accelerate launch` for pretrain; empty: one process")
    micro_batch: int = Field(16, ge=1, description="samples that pretrain computes at once, per process")
    checkpoint_seconds: float = Field(30.0, ge=0, description="least time between two checkpoints in scratch")


def settings() -> Settings:
    """The settings of this process.

    Raises:
        Refusal: if a PEDIGREE_ variable is unknown or has an impossible value.
    """
    given = {name.removeprefix(PREFIX).lower(): value for name, value in os.environ.items() if name.startswith(PREFIX)}
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        name = PREFIX + str(problem["loc"][0]).upper()
        if problem["type"] == "extra_forbidden":
            known = ", ".join(PREFIX + field.upper() for field in Settings.model_fields)
            raise Refusal(f"environment variable {name} is unknown; unset it or correct it (known: {known})") from None
        raise Refusal(f"environment variable {name} is {problem['input']!r}: {problem['msg']}") from None
