"""The loss of a batch: nats over its targets, without the logits of all of them at once.

Axes: B samples, T tokens, N = B·T, R rows of a chunk, C width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from stages.params import Refusal
from stages.pretrain.batches import IGNORED, positions

ROWS = 1024  # of a chunk: its logits are what the loss needs at once


class Objective(nn.Module):
    """A model with its loss: what DDP and FSDP2 wrap, so that the head's weight is used inside their forward pass.

    Where the head is one matrix, hidden states go to the loss in chunks; elsewhere the model makes its logits.
    """

    def __init__(
        self,
        model: nn.Module,
        z_loss: float,
        causal: bool,
        separator: int | None = None,
        places_P: Tensor | None = None,
    ) -> None:
        """With a `separator`, documents don't see each other. With `places_P`, these tokens of each sample are mine.

        Raises:
            Refusal: if the architecture can't see to that.
        """
        super().__init__()
        self.model: Any = model
        self.z_loss, self.separator, self.places_P = z_loss, separator, places_P
        self.given = {"use_cache": False} if causal else {}
        self.chunked = has_plain_head(model)
        if separator is not None and not keeps_apart(model, separator):
            raise Refusal(
                f"params.yaml: pretrain.document_masking is true, but {type(model).__name__} doesn't keep documents "
                f"apart by their positions; set it to false"
            )

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """What is to be made small, and the nats alone: both sums over the targets, float32, without axes."""
        given: dict[str, Any] = dict(self.given)
        if self.places_P is not None:
            inputs_BT, targets_BT = inputs_BT[:, self.places_P], targets_BT[:, self.places_P]
            given["position_ids"] = self.places_P.expand(len(inputs_BT), -1)
        given["input_ids"] = inputs_BT
        if self.separator is not None:
            given["position_ids"] = positions(inputs_BT, self.separator)
        targets_N = targets_BT.flatten()
        if self.chunked:
            hidden_BTC = self.model.base_model(**given)[0]
            weight_VC = self.model.get_output_embeddings().weight
            return chunked_nats(hidden_BTC.flatten(0, 1), weight_VC, targets_N, self.z_loss)
        return plain_nats(self.model(**given).logits.flatten(0, 1), targets_N, self.z_loss)


@torch.no_grad()
def has_plain_head(model: Any) -> bool:
    """Whether the logits are the last hidden states times one matrix, with nothing before it and nothing after."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or getattr(head, "bias", None) is not None:
        return False
    training = model.training
    model.eval()
    tokens_BT = torch.arange(4, device=head.weight.device)[None] % head.weight.size(0)
    wanted = model(input_ids=tokens_BT).logits
    given = head(model.base_model(input_ids=tokens_BT)[0])
    model.train(training)
    return bool(torch.allclose(wanted.float(), given.float(), atol=1e-6))


@torch.no_grad()
def keeps_apart(model: Any, separator: int) -> bool:
    """Whether what stands before a separator has no influence on what the model says behind it."""
    embedding = model.get_input_embeddings().weight
    one, other = ((separator + shift) % len(embedding) for shift in (1, 2))
    rows_BT = torch.tensor([[one, one, separator, one], [other, one, separator, one]], device=embedding.device)
    training = model.training
    model.eval()
    logits_BTV = model(input_ids=rows_BT, position_ids=positions(rows_BT, separator), use_cache=False).logits
    model.train(training)
    return bool(torch.allclose(logits_BTV[0, 2:], logits_BTV[1, 2:], atol=1e-5))


def plain_nats(logits_NV: Tensor, targets_N: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """The loss with the z-loss, and without it; sums over the targets.

    The z-loss keeps log Z, the logarithm of the softmax's denominator, near 0: `z_loss` · log² Z for each target
    (Chowdhery et al. 2022, arXiv:2204.02311, section 5).
    """
    logits_NV = logits_NV.float()
    nats = cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")
    if not z_loss:
        return nats, nats.detach()
    log_z_N = logits_NV.logsumexp(dim=-1)
    return nats + z_loss * (log_z_N.square() * (targets_N != IGNORED)).sum(), nats.detach()


def chunked_nats(hidden_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """plain_nats of the logits hidden·weightᵀ, of which no more than ROWS rows exist at a time."""
    objective, nats = _ChunkedNats.apply(hidden_NC, weight_VC, targets_N, z_loss)  # type: ignore[no-untyped-call]
    return objective, nats


class _ChunkedNats(torch.autograd.Function):
    """The gradient is known as soon as the logits are, so the forward pass makes it, and the backward one scales it."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        device = hidden_NC.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NC.dtype
        with torch.autocast(device, enabled=False):
            matrix_VC = weight_VC.to(narrow)
            d_hidden_NC, d_weight_VC = torch.empty_like(hidden_NC), torch.zeros_like(weight_VC)
            objective, nats = (hidden_NC.new_zeros((), dtype=torch.float32) for _ in range(2))
            for begin in range(0, len(targets_N), ROWS):
                rows_RC = hidden_NC[begin : begin + ROWS].to(narrow)
                targets_R = targets_N[begin : begin + ROWS]
                d_logits_RV, more, more_nats = _logits_gradient(rows_RC @ matrix_VC.mT, targets_R, z_loss)
                d_logits_RV = d_logits_RV.to(narrow)
                d_hidden_NC[begin : begin + ROWS] = d_logits_RV @ matrix_VC
                if narrow == d_weight_VC.dtype:
                    d_weight_VC.addmm_(d_logits_RV.mT, rows_RC)
                else:
                    d_weight_VC += d_logits_RV.mT @ rows_RC
                objective += more
                nats += more_nats
        ctx.save_for_backward(d_hidden_NC, d_weight_VC)
        ctx.mark_non_differentiable(nats)
        return objective, nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _nats: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden_NC, d_weight_VC = ctx.saved_tensors
        return d_hidden_NC * scale, d_weight_VC * scale, None, None


def _logits_gradient(logits_RV: Tensor, targets_R: Tensor, z_loss: float) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the objective with respect to the logits (computed in their place), the objective, the nats."""
    logits_RV = logits_RV.float()
    counted_R = targets_R != IGNORED
    at_R1 = targets_R.clamp(min=0)[:, None]
    most_R1 = logits_RV.amax(dim=-1, keepdim=True)
    asked_R = (logits_RV.gather(1, at_R1) - most_R1)[:, 0]
    exponentials_RV = logits_RV.sub_(most_R1).exp_()
    sums_R1 = exponentials_RV.sum(dim=-1, keepdim=True)
    nats = ((sums_R1[:, 0].log() - asked_R) * counted_R).sum()
    log_z_R1 = sums_R1.log() + most_R1
    penalty = (log_z_R1[:, 0].square() * counted_R).sum() * z_loss
    gradient_RV = exponentials_RV.mul_((1 + 2 * z_loss * log_z_R1) * counted_R[:, None] / sums_R1)
    gradient_RV.scatter_(1, at_R1, gradient_RV.gather(1, at_R1) - counted_R[:, None].float())
    return gradient_RV, nats + penalty, nats
