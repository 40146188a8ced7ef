"""How processes share layers and samples: what can be seen without other processes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import LLAMA
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig

from stages.params import Refusal
from stages.pretrain import context_parallel
from stages.pretrain.context_parallel import Context, share_context
from stages.pretrain.parallel import clip_gradient
from stages.pretrain.tensor_parallel import share_layers


def seat(rank: int, size: int) -> Context:
    """A place among processes that aren't there."""
    return Context(None, rank, size)  # type: ignore[arg-type]


def test_each_token_of_a_sample_is_of_one_process():
    places = [seat(rank, 3).places(24) for rank in range(3)]

    assert [len(each) for each in places] == [8, 8, 8]
    assert places[0].tolist() == [0, 1, 2, 3, 20, 21, 22, 23]
    assert torch.cat(places)[seat(0, 3).order(24)].tolist() == list(range(24))


@pytest.mark.parametrize("causal", [True, False])
def test_attention_to_the_keys_of_all_processes_is_that_of_one(causal, monkeypatch):
    draw = torch.Generator().manual_seed(1)
    queries, keys, values = (torch.randn(2, heads, 16, 8, generator=draw) for heads in (4, 2, 2))
    places = [seat(rank, 2).places(16) for rank in range(2)]
    whole = scaled_dot_product_attention(
        queries, keys.repeat_interleave(2, 1), values.repeat_interleave(2, 1), is_causal=causal
    )

    found = torch.empty(2, 16, 4, 8)
    for rank, mine in enumerate(places):
        # What the others send comes one process after another.
        gathered = iter([keys[:, :, torch.cat(places)], values[:, :, torch.cat(places)]])
        monkeypatch.setattr(context_parallel, "all_gather_tensor_autograd", lambda *_, sent=gathered: next(sent))
        attend = context_parallel._attention(seat(rank, 2), causal)
        part = attend(nn.Module(), queries[:, :, mine], keys[:, :, mine], values[:, :, mine], None)
        found[:, mine] = part[0]

    assert torch.allclose(found.transpose(1, 2), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("length", "exchangeable", "sentence"), [(30, True, "into 4 equal pieces"), (32, False, "has its own")]
)
def test_samples_that_cant_be_cut_are_refused(length, exchangeable, sentence):
    model = SimpleNamespace(is_backend_compatible=lambda: exchangeable)

    with pytest.raises(Refusal, match=sentence):
        share_context(model, seat(0, 2), True, length)


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        ("llama", LLAMA | {"num_key_value_heads": 3}, "tp=4 doesn't divide pretrain.model.num_attention_heads"),
        ("llama", LLAMA | {"num_attention_heads": 4, "num_key_value_heads": 2}, "num_key_value_heads, which is 2"),
        ("gpt2", {}, "of gpt2 it names no way"),
        ("qwen3", LLAMA, "of qwen3 it has replicated_with_grad_allreduce"),
    ],
)
def test_layers_that_cant_be_cut_are_refused(kind: str, fields: dict[str, Any], sentence: str):
    model, mesh = SimpleNamespace(config=AutoConfig.for_model(kind, **fields)), SimpleNamespace(size=lambda: 4)

    with pytest.raises(Refusal, match=sentence):
        share_layers(model, mesh)  # type: ignore[arg-type]


def test_a_gradient_of_one_kind_is_clipped_as_torch_does():
    def gradients() -> list[Tensor]:
        return [torch.full((3,), 2.0), torch.full((2, 2), 4.0)]

    model, other = (nn.ParameterList([torch.zeros(3), torch.zeros(2, 2)]) for _ in range(2))
    for each in (model, other):
        for parameter, gradient in zip(each, gradients(), strict=True):
            parameter.grad = gradient

    norm = clip_gradient(model, 1.0)

    assert torch.equal(norm, nn.utils.clip_grad_norm_(other.parameters(), 1.0))
    assert all(torch.equal(own.grad, its.grad) for own, its in zip(model, other, strict=True))
