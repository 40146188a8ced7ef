"""What the model is, and how it is trained."""

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stages.mixture import Mixture, shares
from stages.order import Order, Phase
from stages.params import Refusal, StageParams


class AdamWParams(StageParams):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) for all parameters."""

    name: Literal["adamw"] = Field("adamw", description="this optimizer")
    learning_rate: float = Field(3e-3, gt=0, description="at its peak")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean of gradients")
    beta2: float = Field(0.95, ge=0, lt=1, description="decay of the mean of their squares")
    weight_decay: float = Field(0.1, ge=0, description="of matrices; vectors don't decay")
    decay_embeddings: bool = Field(True, description="whether the embedding's and the head's matrices decay, too")


class MuonParams(StageParams):
    """Muon (Jordan et al. 2024) for the matrices inside the model, AdamW for embeddings and vectors."""

    name: Literal["muon"] = Field("muon", description="this optimizer")
    learning_rate: float = Field(0.02, gt=0, description="at its peak")
    momentum: float = Field(0.95, ge=0, lt=1, description="decay of the mean of gradients")
    weight_decay: float = Field(0.0, ge=0, description="of what Muon trains")
    adamw: AdamWParams = Field(AdamWParams(weight_decay=0.0), description="for the rest")


class ScheduleParams(StageParams):
    """The learning rate as a share of its peak: warm-up, then the named shape down to `final`.

    `wsd` holds the peak until the last `decay` of the steps, then falls linearly (Hu et al. 2024,
    arXiv:2404.06395, section 4); `cosine` (arXiv:1608.03983) and `linear` fall from the end of the warm-up on.
    """

    shape: Literal["wsd", "cosine", "linear"] = Field(description="wsd: hold the peak, then fall; others: fall from it")
    warmup_steps: int = Field(0, ge=0, description="steps of the rise to the peak")
    decay: float = Field(0.2, gt=0, le=1, description="share of the steps; wsd only")
    final: float = Field(0.0, ge=0, le=1, description="share of the peak that is left at the end")


class GuardParams(StageParams):
    """Which steps are skipped: those whose loss or gradient isn't finite, or stands out from the steps before.

    After OLMo-core's SkipStepOptimizer, with its numbers. Before half a window of steps only what isn't finite is
    skipped.
    """

    sigma: float = Field(6.0, gt=0, description="standard deviations above the mean that stand out")
    window: int = Field(128, ge=4, description="steps that are looked back on")
    most: int = Field(8, ge=0, description="steps skipped within a window; one more stops the training")


class StartParams(StageParams):
    """A base model whose training goes on: its config and weights, pinned."""

    folder: str = Field(min_length=1, description="has config.json, model.safetensors and tokenizer.json")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of its model.safetensors")
    config_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of its config.json")


class PhaseParams(StageParams):
    """Another mixture for the rest of the training, or until the next phase; for annealing, as Llama 3 was trained."""

    after_tokens: int = Field(ge=1, description="of the training that come before it, a whole number of blocks")
    mixture: dict[str, float] = Field(
        min_length=1, description="weight of each source in it; one that isn't named isn't drawn"
    )

    @field_validator("mixture", mode="before")
    @classmethod
    def _weights(cls, mixture: Any) -> Any:
        for name, weight in mixture.items() if isinstance(mixture, dict) else ():
            if isinstance(weight, dict):
                raise ValueError(f"{name} has {weight}, but a phase has weights only; give a positive number")
        return mixture

    @field_validator("mixture")
    @classmethod
    def _positive(cls, mixture: dict[str, float]) -> dict[str, float]:
        for name, weight in mixture.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"{name} has the weight {weight}; give a positive number, or leave it out")
        return mixture


class PretrainParams(StageParams):
    """The model, its objective, and the budget in tokens."""

    objective: Literal["causal", "masked"] = Field("causal", description="predict the next token, or hidden ones")
    masked_share: float = Field(0.3, gt=0, lt=1, description="of the tokens; objective masked only")
    whole_word: bool = Field(False, description="hide all tokens of a word together; objective masked only")
    model: dict[str, Any] | None = Field(None, description="model_type and fields of a transformers config")
    start: StartParams | None = Field(None, description="base model to go on from; instead of model")
    sequence_length: int = Field(ge=8, description="tokens of a sample")
    tokens: int = Field(ge=1, description="the budget; rounded up to whole steps")
    tokens_per_step: int = Field(ge=1, description="the global batch")
    block_samples: int = Field(256, ge=1, description="samples in which the mixture holds exactly")
    phases: tuple[PhaseParams, ...] = Field((), description="other mixtures, later in the training")
    optimizer: Annotated[AdamWParams | MuonParams, Field(discriminator="name", description="by its name")]
    schedule: ScheduleParams
    z_loss: float = Field(0.0, ge=0, description="weight of log² Z in the loss; PaLM has 0.0001")
    document_masking: bool = Field(False, description="whether documents of one sample don't see each other")
    guard: GuardParams | None = Field(GuardParams(), description="which steps are skipped; null: none")
    gradient_clip: float | None = Field(1.0, gt=0, description="largest global norm")
    precision: Literal["fp32", "bf16", "fp8", "auto"] = Field("fp32", description="auto: bf16 where hardware has it")
    numerics: Literal["fast", "portable"] = Field("fast", description="portable: the same on every x86-64 with AVX2")
    compile: bool = Field(False, description="compile each layer, which needs a C++ compiler on a CPU")
    threads: int = Field(2, ge=1, description="of a process on CPU; fixed, as sums may depend on it")
    checkpoint_steps: int | None = Field(None, ge=1, description="publish the weights every so many steps")
    checkpoint_powers: bool = Field(False, description="publish them after steps 1, 2, 4, 8 and so on, too")
    average_last: int | None = Field(
        None, ge=1, description="the base model is the mean of so many of the last published weights"
    )
    seed: int = Field(0, description="of the first weights, the sample order, and masking")

    @model_validator(mode="after")
    def _consistent(self) -> "PretrainParams":
        if self.tokens_per_step % self.sequence_length:
            raise ValueError(
                f"tokens_per_step ({self.tokens_per_step}) must be a multiple of "
                f"sequence_length ({self.sequence_length})"
            )
        self._check_phases()
        if (self.model is None) == (self.start is None):
            raise ValueError("give either model (to begin from random weights) or start (to go on from a base model)")
        if self.model is not None and not isinstance(self.model.get("model_type"), str):
            raise ValueError("model.model_type is missing; name a transformers architecture, such as llama")
        if self.numerics == "portable" and (self.precision != "fp32" or self.compile):
            raise ValueError("numerics: portable needs precision: fp32 and compile: false")
        if self.document_masking and self.objective == "masked":
            raise ValueError("document_masking is for objective: causal; set it to false")
        published = sum(self.publishes(step) for step in range(1, self.steps + 1)) if self.average_last else 0
        if self.average_last and published < self.average_last:
            raise ValueError(
                f"average_last ({self.average_last}) is more than the {published} checkpoints that are published; "
                f"lower it, or checkpoint_steps"
            )
        return self

    def _check_phases(self) -> None:
        block, begins = self.block_samples * self.sequence_length, [0, *(phase.after_tokens for phase in self.phases)]
        for before, begin in pairwise([*begins, self.tokens]):
            if before >= begin:
                raise ValueError(f"phases: one after {begin} tokens can't follow after {before}; put them in order")
        for begin in begins:
            if begin % block:
                near = max(1, round(begin / block)) * block
                raise ValueError(
                    f"phases.after_tokens ({begin}) must be a multiple of the {block} of a block, as {near}"
                )

    def sample_order(self, mixture: Mixture, windows: Mapping[str, int]) -> Order:
        """The order of all samples, of sources with so many `windows`.

        Raises:
            Refusal: if its epochs leave nothing for its weights, or a phase names something else than its sources.
        """
        until_phases = self.mixture_shares(mixture, windows)
        return Order(self.seed, self.block_samples, windows, until_phases, self.order_phases(mixture))

    def mixture_shares(self, mixture: Mixture, windows: Mapping[str, int]) -> dict[str, float]:
        """The shares that `mixture` comes to until the first phase, for sources in epochs with so many `windows`.

        Raises:
            Refusal: if its epochs leave nothing for its weights.
        """
        tokens = {name: count * self.sequence_length for name, count in windows.items()}
        if self.phases:
            return shares(mixture, tokens, self.phases[0].after_tokens, "pretrain.phases.0.after_tokens")
        return shares(mixture, tokens, self.steps * self.tokens_per_step, "pretrain.tokens")

    def order_phases(self, sources: Collection[str]) -> tuple[Phase, ...]:
        """The phases as the sample order takes them.

        Raises:
            Refusal: if one names something else than `sources`.
        """
        for phase in self.phases:
            if unknown := sorted(set(phase.mixture) - set(sources)):
                raise Refusal(
                    f"params.yaml: pretrain.phases names {unknown[0]} in its mixture, which is no source "
                    f"(known: {', '.join(sorted(sources))}); correct or remove it"
                )
        return tuple(Phase(phase.after_tokens // self.sequence_length, phase.mixture) for phase in self.phases)

    def publishes(self, step: int) -> bool:
        """Whether the weights after this many steps are published."""
        by_steps = self.checkpoint_steps is not None and step % self.checkpoint_steps == 0
        return by_steps or (self.checkpoint_powers and step.bit_count() == 1)

    @property
    def samples_per_step(self) -> int:
        """The global batch, in samples."""
        return self.tokens_per_step // self.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer steps: as many as the token budget needs."""
        return -(-self.tokens // self.tokens_per_step)
