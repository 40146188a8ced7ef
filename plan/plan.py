"""A plan: all that params.yaml or a preset says of a training before it runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plan.compute import days, flops_by_part, six_nd
from plan.corpus import Portion, portions
from plan.devices import Machines
from plan.layout import Fit, fewest, first_fit
from plan.memory import FULL_BYTES, optimizer_bytes
from plan.published import PUBLISHED, Published
from plan.shape import Shape, shape_of
from stages.mixture import load_mixture
from stages.params import PARAMS_FILE, Refusal, load_params, read_params
from stages.pretrain.params import PretrainParams

PRESETS = Path("presets")
TOKENIZER = Path("models/tokenizer/tokenizer.json")
MFU = 0.4  # share of the peak: what Llama 3's trainers report (38 to 43%, arXiv:2407.21783, table 4)


@dataclass(frozen=True)
class Plan:
    """A training, the machines for it, and what follows."""

    name: str  # of the preset, or params.yaml
    params: PretrainParams
    portions: tuple[Portion, ...]
    shape: Shape
    machines: Machines
    mfu: float
    price: float | None  # of a device for an hour
    fit: Fit | None
    fewest: int | None  # devices on which it would fit, if it doesn't on these
    published: Published | None

    @property
    def tokens(self) -> int:
        """That are trained on: whole steps."""
        return self.params.steps * self.params.tokens_per_step

    @property
    def six_nd(self) -> float:
        """FLOPs by the rule of thumb."""
        return six_nd(self.shape.parameters, self.tokens)

    @property
    def flops(self) -> dict[str, float]:
        """FLOPs by part."""
        return dict(flops_by_part(self.shape, self.params.sequence_length, self.tokens))

    @property
    def days(self) -> float:
        """That the machines need, at the stated share of their peak."""
        peak = self.machines.count * self.machines.device.peak(self.params.precision)
        return days(sum(self.flops.values()), peak, self.mfu)

    @property
    def device_hours(self) -> float:
        """Of all devices together."""
        return self.days * 24 * self.machines.count

    @property
    def cost(self) -> float | None:
        """At the price given."""
        return None if self.price is None else self.price * self.device_hours

    @property
    def weights_bytes(self) -> int:
        """Of a model on disk: published checkpoints and the base model are fp32."""
        return FULL_BYTES * self.shape.parameters

    @property
    def state_bytes(self) -> int:
        """Of a checkpoint to go on from: weights and optimizer states."""
        return self.weights_bytes + optimizer_bytes(self.shape, self.params)

    @property
    def checkpoints(self) -> int:
        """How many are published."""
        return sum(self.params.publishes(step) for step in range(1, self.params.steps + 1))


def make_plan(preset: str | None, machines: Machines, mfu: float = MFU, price: float | None = None) -> Plan:
    """The plan of a preset, or of params.yaml, in the folder of the project.

    Raises:
        Refusal: if there is no such preset, or its parameters are wrong.
    """
    path = preset_path(preset) if preset else PARAMS_FILE
    params = load_params(PretrainParams, "pretrain", path)
    described = describe(params)
    shape = whole_shape(params, described, vocabulary(path, described, None if preset else TOKENIZER))
    fit = first_fit(shape, params, machines)
    return Plan(
        preset or str(PARAMS_FILE), params,
        tuple(portions(params, load_mixture(path), None if preset else Path())),
        shape, machines, mfu, price, fit,
        fewest=None if fit else fewest(shape, params, machines),
        published=PUBLISHED.get(preset or ""),
    )  # fmt: skip


def preset_path(name: str) -> Path:
    """The file of a preset.

    Raises:
        Refusal: if there is none of this name.
    """
    known = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}
    if name not in known:
        raise Refusal(f"--preset {name}: {PRESETS} has no such file; name one of {', '.join(known) or 'none'}")
    return known[name]


def describe(params: PretrainParams) -> Mapping[str, Any]:
    """The fields of the model's config: those of params, or those of the base model whose training goes on.

    Raises:
        Refusal: if that isn't there.
    """
    if params.start is None:
        return params.model or {}
    path = Path(params.start.folder, "config.json")
    try:
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refusal(f"{path} can't be read ({error}); correct pretrain.start.folder in params.yaml") from None
    return described


def whole_shape(params: PretrainParams, described: Mapping[str, Any], size: int) -> Shape:
    """The shape of the model, by arithmetic where the architecture and objective allow it."""
    shape = shape_of(described, size) if params.objective == "causal" else None
    if shape is None:
        from plan.meta import measure_shape  # loads torch, which takes seconds

        shape = measure_shape(params, described, size)
    return shape


def vocabulary(path: Path, described: Mapping[str, Any], tokenizer: Path | None) -> int:
    """Tokens that the model knows: its own number, that of the built tokenizer, or what params ask for.

    Raises:
        Refusal: if none of them says it.
    """
    if "vocab_size" in described:
        return int(described["vocab_size"])
    if tokenizer and tokenizer.exists():
        built = json.loads(tokenizer.read_text(encoding="utf-8"))
        return len({*built["model"]["vocab"], *(token["content"] for token in built["added_tokens"])})
    wanted = (read_params(path).get("tokenizer") or {}).get("vocabulary")
    if not isinstance(wanted, int):
        raise Refusal(f"{path}: tokenizer.existing isn't fetched yet; give its size as pretrain.model.vocab_size")
    return wanted
