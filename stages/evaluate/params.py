"""What is measured, and on how much."""

from pydantic import Field, model_validator

from stages.items import ProbeParams, TaskParams
from stages.params import StageParams


class SamplesParams(StageParams):
    """Text that the model writes: each prompt once greedily, once drawn at `temperature`."""

    prompts: tuple[str, ...] = Field((), description="how each text begins")
    tokens: int = Field(64, ge=1, description="how many are written after a prompt")
    temperature: float = Field(0.8, gt=0, description="of the drawn text")
    seed: int = Field(0, description="of the drawn text")


class EvaluateParams(StageParams):
    """Windows, and how much held-out text is scored."""

    sequence_length: int = Field(ge=8, description="tokens that the model sees at once")
    stride: int = Field(ge=1, description="tokens that each window scores; the rest of it is context")
    source_bytes: int = Field(200_000, ge=1, description="held-out text of each source, in whole documents")
    checkpoint_bytes: int = Field(30_000, ge=0, description="the same for the curve over checkpoints; 0: no curve")
    samples: SamplesParams = SamplesParams()
    tasks: tuple[TaskParams, ...] = Field((), description="what the model is asked beside")
    checkpoint_items: int = Field(
        500, ge=0, description="items of each task for the curve over checkpoints, evenly spread; 0: none"
    )
    harness: bool = Field(
        False, description="lm-evaluation-harness scores the base model on the tasks that have a layout, too"
    )
    probe: ProbeParams | None = Field(None, description="whether, and on what, checkpoints are fine-tuned")

    @model_validator(mode="after")
    def _consistent(self) -> "EvaluateParams":
        if self.stride > self.sequence_length:
            raise ValueError(f"stride ({self.stride}) must not exceed sequence_length ({self.sequence_length})")
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tasks has {twice[0]} twice; give each task a name of its own")
        return self
