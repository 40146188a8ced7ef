"""The chunked loss is the plain one; documents of a sample are kept apart."""

from itertools import chain

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from stages.params import Refusal
from stages.pretrain import loss
from stages.pretrain.batches import IGNORED, positions
from stages.pretrain.loss import Objective, chunked_nats, has_plain_head, plain_nats

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny(kind: str = "llama", **fields: object) -> nn.Module:
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    auto = AutoModelForMaskedLM if "bert" in kind else AutoModelForCausalLM
    return auto.from_config(AutoConfig.for_model(kind, vocab_size=40, **special, **SIZES, **fields))


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("rows", [3, 7, 100])
def test_the_chunked_loss_and_its_gradients_are_the_plain_ones(monkeypatch, rows, z_loss):
    monkeypatch.setattr(loss, "ROWS", rows)
    torch.manual_seed(0)
    hidden, weight = torch.randn(20, 8, requires_grad=True), torch.randn(40, 8, requires_grad=True)
    targets = torch.randint(0, 40, (20,))
    targets[[2, 11]] = IGNORED

    results = [
        (*made, *torch.autograd.grad(made[0] / 7, [hidden, weight]))
        for made in (plain_nats(hidden @ weight.mT, targets, z_loss), chunked_nats(hidden, weight, targets, z_loss))
    ]

    for plain, chunked in zip(*results, strict=True):
        assert torch.allclose(plain, chunked, rtol=1e-4, atol=1e-5)
    assert (results[0][0] > results[0][1] + 0.01) == bool(z_loss)


def test_the_z_loss_is_the_square_of_log_z():
    logits, targets = torch.tensor([[1.0, 2.0], [0.0, 5.0]]), torch.tensor([0, IGNORED])

    objective, nats = plain_nats(logits, targets, 0.5)

    log_z = torch.tensor(1.0).exp().add(torch.tensor(2.0).exp()).log()
    assert nats == pytest.approx(log_z - 1.0)
    assert objective - nats == pytest.approx(0.5 * log_z**2)


def test_large_logits_dont_overflow():
    hidden, weight = torch.tensor([[1000.0]]), torch.tensor([[1.0], [-1.0]])

    assert chunked_nats(hidden, weight, torch.tensor([1]), 0.0)[1] == 2000


def test_bf16_changes_the_loss_by_rounding_only():
    model, tokens = Objective(tiny(), 0.0, causal=True), torch.arange(24).reshape(2, 12)

    exact = model(tokens, tokens)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(tokens, tokens)[0]
    rounded.backward()

    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=1e-2)


@pytest.mark.parametrize(
    ("kind", "fields", "plain"),
    [
        ("llama", {}, True),
        ("llama", {"tie_word_embeddings": True}, True),
        ("gpt_neox", {}, True),
        ("gemma2", {"head_dim": 8, "num_key_value_heads": 2, "final_logit_softcapping": 0.1}, False),
        ("bert", {}, False),
    ],
)
def test_a_head_that_does_more_than_one_product_keeps_its_logits(kind, fields, plain):
    model = tiny(kind, **fields)

    assert has_plain_head(model) is plain
    assert model.training


@pytest.mark.parametrize(
    ("kind", "fields"), [("llama", {}), ("llama", {"tie_word_embeddings": True}), ("gpt_neox", {})]
)
def test_the_objective_has_the_loss_and_the_gradients_of_transformers(kind, fields):
    ours, theirs = tiny(kind, **fields), tiny(kind, **fields)
    tokens = torch.arange(26).reshape(2, 13)

    nats, _ = Objective(ours, 0.0, causal=True)(tokens[:, :-1], tokens[:, 1:])
    (nats / 24).backward()
    theirs(input_ids=tokens, labels=tokens).loss.backward()

    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=1e-6)


def test_a_separator_begins_the_document_behind_it():
    inputs = torch.tensor([[5, 6, 0, 7, 8, 9, 0, 0, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9]])

    assert positions(inputs, separator=0).tolist() == [[0, 1, 0, 1, 2, 3, 0, 0, 1], list(range(9))]


def hidden_states(model: nn.Module, tokens: list[int], separator: int | None) -> torch.Tensor:
    """What the objective gives to the head."""
    seen = []
    objective = Objective(model, 0.0, causal=True, separator=separator)
    handle = model.base_model.register_forward_hook(lambda _m, _i, out: seen.append(out[0].detach()))
    objective(torch.tensor([tokens]), torch.tensor([tokens]))
    handle.remove()
    return seen[-1][0]


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "gpt2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_documents_of_a_sample_are_computed_as_if_alone(kind, attention):
    model = tiny(kind).eval()
    model.set_attn_implementation(attention)
    documents = [[5, 6, 7], [0, 8, 9, 10, 11], [0, 12], [0, 13, 14]]

    row = [*chain(*documents)]
    packed = hidden_states(model, row, separator=0)
    alone = torch.cat([hidden_states(model, document, separator=None) for document in documents])
    together = hidden_states(model, row, separator=None)

    assert torch.allclose(packed, alone, atol=1e-5)
    assert not torch.allclose(together, alone, atol=1e-3)


def test_an_architecture_that_cant_keep_documents_apart_is_refused():
    with pytest.raises(Refusal, match="document_masking is true, but OPTForCausalLM"):
        Objective(tiny("opt", ffn_dim=32), 0.0, causal=True, separator=0)
