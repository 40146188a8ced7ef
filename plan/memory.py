"""What a device holds during a step, by part. An estimate: the test compares it with what autograd keeps."""

from dataclasses import dataclass

from plan.shape import EMBEDDING, Shape
from stages.pretrain.params import MuonParams, PretrainParams

FULL_BYTES, HALF_BYTES = 4, 2  # of a number in fp32, in bf16
GATHERED = 2  # layers whose gathered weights are held: one computes, the next arrives
LOGIT_BYTES = 12  # of a logit: itself, in fp32, and its gradient
LOGIT_ROWS = 1024  # positions whose logits are there at once: ROWS of stages/pretrain/loss.py
OUTSIDE = 14  # bytes kept for each number of the width by embedding and last norm


@dataclass(frozen=True)
class Kept:
    """Bytes that a layer keeps for the backward pass, for a token and each number of a width."""

    width: int  # the residual stream: what the norms and the products after them keep
    queries: int  # and what attention gives
    keys: int  # together with the values
    inner: int


# What autograd keeps in transformers 5 with SDPA, not compiled, by the bytes of a number in products; counted by
# saved_tensors_hooks, as the test does. An architecture that isn't here has OTHER: the largest of each.
KEPT = {
    ("llama", HALF_BYTES): Kept(26, 4, 4, 8),
    ("llama", FULL_BYTES): Kept(24, 8, 8, 16),
    ("gpt2", HALF_BYTES): Kept(16, 4, 4, 10),
    ("gpt2", FULL_BYTES): Kept(24, 8, 8, 20),
    ("gpt_neox", HALF_BYTES): Kept(10, 4, 4, 4),
    ("gpt_neox", FULL_BYTES): Kept(16, 8, 8, 8),
}
OTHER = {HALF_BYTES: Kept(26, 4, 4, 10), FULL_BYTES: Kept(24, 8, 8, 20)}


@dataclass(frozen=True)
class Layout:
    """So many devices as replicas x shards x tensor x context, and what each computes at once."""

    replicas: int  # groups that each hold one whole state (Accelerate's dp_replicate_size)
    shards: int  # devices that share it (dp_shard_size): 1 is plain data parallelism
    tensor: int  # devices that share each matrix (tp_size)
    context: int  # devices that share each sample (cp_size)
    micro_batch: int  # samples at once
    accumulation: int  # times in a step
    recompute: bool  # activations inside a layer are computed again in the backward pass

    @property
    def devices(self) -> int:
        """All of them."""
        return self.replicas * self.shards * self.tensor * self.context


def optimizer_bytes(shape: Shape, params: PretrainParams) -> int:
    """Two fp32 numbers for each parameter (AdamW); one for the inner matrices if Muon has them."""
    muon = shape.inner_matrices if isinstance(params.optimizer, MuonParams) else 0
    return FULL_BYTES * (2 * shape.parameters - muon)


def memory_by_part(shape: Shape, params: PretrainParams, layout: Layout) -> dict[str, float]:
    """Bytes on each device at the peak of a step.

    Weights and gradients are fp32; products in bf16 take copies of the weights (of one layer after another if the
    state is sharded: FSDP2 gathers them so). Under plain data parallelism the gradients stand in buckets, too.
    """
    parts = layout.tensor * layout.shards * layout.context
    tokens = layout.micro_batch * params.sequence_length / layout.context
    narrow = FULL_BYTES if params.precision == "fp32" else HALF_BYTES
    return {
        "weights": FULL_BYTES * shape.parameters / parts,
        "gradients": FULL_BYTES * shape.parameters / parts,
        "optimizer states": optimizer_bytes(shape, params) / parts,
        "copies for computing": copies(shape, layout, narrow),
        "activations": tokens * activations(shape, layout, narrow),
        "logits": min(tokens, LOGIT_ROWS) * shape.vocabulary * LOGIT_BYTES,
    }


def copies(shape: Shape, layout: Layout, narrow: int) -> float:
    """Bytes of weights and gradients beside the state itself."""
    if layout.shards * layout.context > 1:
        largest = max(shape.inner_matrices / shape.layers, shape.parts[EMBEDDING])
        return (GATHERED * narrow + FULL_BYTES) * largest / layout.tensor
    cast = narrow if narrow < FULL_BYTES else 0
    buckets = FULL_BYTES if layout.replicas > 1 else 0
    return (cast + buckets) * shape.parameters / layout.tensor


def activations(shape: Shape, layout: Layout, narrow: int) -> float:
    """Bytes that are kept for each token until the backward pass; recomputed: the inputs of layers, and one layer."""
    kept = KEPT.get((shape.architecture, narrow), OTHER[narrow])
    split = kept.queries * shape.attention_width + kept.keys * shape.key_width + kept.inner * shape.inner
    layer = kept.width * shape.width + split / layout.tensor
    layers = shape.layers * FULL_BYTES * shape.width + layer if layout.recompute else shape.layers * layer
    return layers + OUTSIDE * shape.width
