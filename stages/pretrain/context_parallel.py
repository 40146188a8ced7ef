"""Context parallelism: each process has a part of every sample, and sees the keys and values of all of it.

Keys and values are gathered before each attention, as Llama 3 was trained (Grattafiori et al. 2024, arXiv:2407.21783,
section 3.3.2). Accelerate's own way passes them round a ring, by kernels that only a GPU has; this one is plain
attention, the same on all devices. A sample is cut into two pieces for each process, of which process r has number r
and the r-th from the end: under a causal mask all then have the same to compute.

Axes: B samples, H heads, T tokens, D width of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed._functional_collectives import all_gather_tensor_autograd
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from stages.params import Refusal

NAME = "context_parallel"  # by which transformers finds the attention


@dataclass(frozen=True)
class Context:
    """Process `rank` of the `size` that share each sample, in their `group`."""

    group: ProcessGroup
    rank: int
    size: int

    def places(self, length: int) -> Tensor:
        """Which tokens of a sample are this process's, int64, shape (length / size,)."""
        return torch.cat([_piece(number, length, self.size) for number in _pieces(self.rank, self.size)])

    def order(self, length: int) -> Tensor:
        """Where each token of a sample stands among those of all processes, one after another."""
        gathered = [
            _piece(number, length, self.size) for rank in range(self.size) for number in _pieces(rank, self.size)
        ]
        return torch.cat(gathered).argsort()


def _pieces(rank: int, size: int) -> tuple[int, int]:
    return rank, 2 * size - 1 - rank


def _piece(number: int, length: int, size: int) -> Tensor:
    piece = length // (2 * size)
    return torch.arange(number * piece, (number + 1) * piece)


def share_context(model: Any, context: Context, causal: bool, length: int) -> None:
    """Let the attention of `model` see the keys and values of all processes of `context`.

    Raises:
        Refusal: if the samples can't be cut so, or the architecture's attention can't be exchanged.
    """
    if length % (2 * context.size):
        raise Refusal(
            f"params.yaml: pretrain.sequence_length is {length}, which PEDIGREE_PARALLEL's cp={context.size} can't cut "
            f"into {2 * context.size} equal pieces; change either"
        )
    if not model.is_backend_compatible():
        raise Refusal(
            f"PEDIGREE_PARALLEL: cp needs an attention that transformers can exchange, and {type(model).__name__} has "
            f"its own; take cp out"
        )
    AttentionInterface.register(NAME, _attention(context, causal))
    model.set_attn_implementation(NAME)


def _attention(context: Context, causal: bool) -> Any:
    """The attention as transformers calls it."""

    def attend(
        module: nn.Module, queries_BHTD: Tensor, keys_BHTD: Tensor, values_BHTD: Tensor, mask: Tensor | None,
        scaling: float | None = None, dropout: float = 0.0, **given: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        if given.get("sliding_window"):
            raise Refusal("PEDIGREE_PARALLEL: cp can't be had with a sliding window; take cp out")
        groups = queries_BHTD.size(1) // keys_BHTD.size(1)
        keys_BHTD, values_BHTD = (_whole(each, context, groups) for each in (keys_BHTD, values_BHTD))
        found = [
            scaled_dot_product_attention(part, keys, values, bias, dropout, scale=scaling)
            for part, keys, values, bias in _parts(queries_BHTD, keys_BHTD, values_BHTD, context, causal)
        ]
        return torch.cat(found, dim=2).transpose(1, 2).contiguous(), None

    return attend


def _whole(part_BHTD: Tensor, context: Context, groups: int) -> Tensor:
    """The keys or values of all processes, in the order of the sample; each head as often as queries share it."""
    gathered = all_gather_tensor_autograd(part_BHTD.contiguous(), 2, context.group)
    order = context.order(gathered.size(2)).to(gathered.device)
    whole: Tensor = gathered.index_select(2, order).repeat_interleave(groups, dim=1)
    return whole


def _parts(queries_BHTD: Tensor, keys_BHTD: Tensor, values_BHTD: Tensor, context: Context, causal: bool) -> Any:
    """Queries, and the keys and values that they may see: of each piece those up to its own end."""
    if not causal:
        yield queries_BHTD, keys_BHTD, values_BHTD, None
        return
    piece = queries_BHTD.size(2) // 2
    for number, part in zip(_pieces(context.rank, context.size), torch.split(queries_BHTD, piece, dim=2), strict=True):
        seen = (number + 1) * piece
        yield part, keys_BHTD[:, :, :seen], values_BHTD[:, :, :seen], causal_lower_right(piece, seen)
