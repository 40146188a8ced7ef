"""The parts of pretrain, on values; the whole of it is tested in tests/pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import DAMAGES
from tokenizers import Tokenizer, models
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from stages.order import Order
from stages.params import Refusal, parse_params
from stages.pretrain import batches, checkpoint
from stages.pretrain.history import Step
from stages.pretrain.model import build_config, build_model, count_parameters, flops_per_token
from stages.pretrain.optimizer import build_optimizers, orthogonalize, rate_factor, set_rates
from stages.pretrain.params import AdamWParams, MuonParams, PretrainParams, ScheduleParams
from stages.pretrain.state import Share, restore, snapshot
from stages.tokens import TokenStream

TINY = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
VALUES = {
    "model": TINY,
    "sequence_length": 8,
    "tokens": 1000,
    "tokens_per_step": 64,
    "optimizer": {"name": "muon"},
    "schedule": {"shape": "wsd"},
}
PARAMS = parse_params(PretrainParams, VALUES, "pretrain")


def phased(after: int) -> dict[str, Any]:
    """A longer training with another mixture after so many tokens."""
    return {"tokens": 100_000, "phases": [{"after_tokens": after, "mixture": {"a": 3, "b": 1}}]}


def tiny_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = AutoConfig.for_model("llama", vocab_size=50, **{k: v for k, v in TINY.items() if k != "model_type"})
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        ({"shape": "wsd", "warmup_steps": 4, "decay": 0.5}, 0, 0.25),
        ({"shape": "wsd", "warmup_steps": 4, "decay": 0.5}, 3, 1.0),
        ({"shape": "wsd", "warmup_steps": 4, "decay": 0.5}, 49, 1.0),
        ({"shape": "wsd", "warmup_steps": 4, "decay": 0.5}, 75, 0.5),
        ({"shape": "wsd", "warmup_steps": 4, "decay": 0.5}, 99, 0.02),
        ({"shape": "wsd", "decay": 0.5, "final": 0.1}, 99, 0.1),
        ({"shape": "cosine", "warmup_steps": 0}, 0, 1.0),
        ({"shape": "cosine", "warmup_steps": 0}, 50, 0.5),
        ({"shape": "cosine", "warmup_steps": 0, "final": 0.2}, 50, 0.6),
        ({"shape": "linear", "warmup_steps": 20}, 9, 0.5),
        ({"shape": "linear", "warmup_steps": 20}, 20, 1.0),
        ({"shape": "linear", "warmup_steps": 20}, 60, 0.5),
        ({"shape": "linear", "warmup_steps": 20, "final": 0.5}, 60, 0.75),
    ],
)
def test_the_learning_rate_is_a_function_of_the_step(schedule, step, factor):
    assert rate_factor(step, 100, ScheduleParams(**schedule)) == pytest.approx(factor)


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (16, 4)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape)

    values = torch.linalg.svdvals(orthogonalize(matrices))

    assert values.min() > 0.5
    assert values.max() < 1.3


def test_orthogonalizing_keeps_the_singular_vectors():
    torch.manual_seed(0)
    matrix = torch.randn(1, 6, 6)
    u, _, v = torch.linalg.svd(matrix)

    turned = u.mT @ orthogonalize(matrix) @ v.mT

    assert torch.allclose(turned, torch.diag_embed(turned.diagonal(dim1=1, dim2=2)), atol=1e-4)


def test_matrices_of_one_shape_are_updated_as_if_alone():
    together, alone = tiny_model(), tiny_model()
    params = MuonParams()
    for model, optimizers in (
        (together, build_optimizers(together, params)),
        (alone, [o for module in alone.modules() for o in _one_by_one(module, alone, params)]),
    ):
        model(input_ids=torch.arange(20)[None], labels=torch.arange(20)[None]).loss.backward()
        set_rates(optimizers, 1.0)
        for optimizer in optimizers:
            optimizer.step()

    for name, parameter in together.named_parameters():
        if "layers" in name and parameter.ndim == 2:
            assert torch.allclose(parameter, alone.get_parameter(name), atol=1e-5)


def _one_by_one(module: nn.Module, model: nn.Module, params: MuonParams) -> list[torch.optim.Optimizer]:
    from stages.pretrain.optimizer import Muon

    if not isinstance(module, nn.Linear) or module is model.get_output_embeddings():
        return []
    optimizer = Muon([module.weight], params.learning_rate, params.momentum, params.weight_decay)
    optimizer.param_groups[0]["peak"] = params.learning_rate
    return [optimizer]


@pytest.mark.parametrize("params", [AdamWParams(), MuonParams()])
def test_every_parameter_is_trained_by_exactly_one_optimizer(params):
    model = tiny_model()

    trained = [id(p) for o in build_optimizers(model, params) for group in o.param_groups for p in group["params"]]

    assert sorted(trained) == sorted(id(parameter) for parameter in model.parameters())


def test_vectors_dont_decay():
    groups = [group for o in build_optimizers(tiny_model(), AdamWParams()) for group in o.param_groups]

    assert {(p.ndim == 1, group["weight_decay"]) for group in groups for p in group["params"]} == {
        (True, 0.0),
        (False, 0.1),
    }


def test_embeddings_decay_unless_they_are_spared():
    model = tiny_model()
    embedding = id(model.get_input_embeddings().weight)

    for spared in (False, True):
        groups = build_optimizers(model, AdamWParams(decay_embeddings=not spared))[0].param_groups

        assert [group["weight_decay"] for group in groups if embedding in map(id, group["params"])] == [
            0.0 if spared else 0.1
        ]


def stream(length: int) -> TokenStream:
    return TokenStream((np.arange(length),), np.array([0, length]))


def test_samples_are_the_windows_of_the_order():
    streams = {"a": stream(100), "b": stream(50)}
    order = Order(0, 8, {"a": 12, "b": 6}, {"a": 0.5, "b": 0.5})

    samples = batches.read_samples(streams, order, range(8), 8)

    for number, row in enumerate(samples):
        begin = order.sample(number).window * 8
        assert row.tolist() == list(range(begin, begin + 9))


def test_each_token_is_asked_for_the_next():
    inputs, targets = batches.causal(torch.arange(9)[None])

    assert inputs.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert targets.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]


def test_masked_samples_hide_the_same_number_of_tokens_and_ask_for_them():
    samples = torch.arange(3 * 101).reshape(3, 101)

    inputs, targets = batches.masked(samples, range(3), share=0.3, mask=999, vocabulary=400, seed=0)

    asked = targets != batches.IGNORED
    assert asked.sum(dim=1).tolist() == [30, 30, 30]
    assert torch.equal(targets[asked], samples[:, :-1][asked])
    assert torch.equal(inputs[~asked], samples[:, :-1][~asked])
    assert 60 < (inputs == 999).sum() < 84  # 80% of 90


def test_masking_depends_on_the_number_of_the_sample_alone():
    samples = torch.arange(2 * 33).reshape(2, 33)

    both, _ = batches.masked(samples, [7, 8], 0.3, 999, 400, 0)
    second, _ = batches.masked(samples[1:], [8], 0.3, 999, 400, 0)

    assert torch.equal(both[1:], second)


def words_tokenizer() -> Tokenizer:
    vocabulary = {text: place for place, text in enumerate(["<|end|>", "Ġri", "ver", ",", "Ċ", "Ġa", "1", "é", "Ã"])}
    del vocabulary["é"]
    vocabulary["Ã©"] = 7
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


def test_words_begin_where_the_tokenizer_has_a_space_or_no_letter():
    joins = batches.joins(words_tokenizer())

    words = batches.words_of(np.array([1, 2, 3, 2, 1, 2, 2, 4, 0, 2, 5, 6, 7]), joins)
    # " river" "," "ver" " riverver" "\n" end "ver" " a1é"
    assert words.tolist() == [0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 7, 7]


def test_whole_words_are_hidden_and_their_number_of_tokens_stays_the_same():
    joins = batches.joins(words_tokenizer())
    draw = np.random.default_rng(0)
    samples = torch.from_numpy(draw.choice([1, 2, 2, 3], (20, 101)))

    _, targets = batches.masked(samples, range(20), 0.3, 8, 9, 0, joins)

    asked = (targets != batches.IGNORED).numpy()
    assert asked.sum(axis=1).tolist() == [30] * 20
    for tokens, hidden in zip(samples[:, :-1].numpy(), asked, strict=True):
        words = batches.words_of(tokens, joins)
        share = np.bincount(words, hidden) / np.bincount(words)
        assert np.sum((share > 0) & (share < 1)) <= 1  # the last word may be cut


def test_a_tokenizer_without_bytes_has_no_whole_words():
    with pytest.raises(Refusal, match="whole_word needs a byte-level tokenizer"):
        batches.joins(Tokenizer(models.WordPiece({"▁the": 0}, unk_token="▁the")))


def trained(steps: int, model: nn.Module, optimizers: list[torch.optim.Optimizer], first: int = 0) -> None:
    for step in range(first, steps):
        tokens = torch.arange(step, step + 12)[None] % 50
        model(input_ids=tokens, labels=tokens).loss.backward()
        set_rates(optimizers, rate_factor(step, 10, PARAMS.schedule))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def save(folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: list[Step]) -> None:
    checkpoint.save(folder, snapshot(model, optimizers, steps, Share()), kept=2)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_resumed_training_is_bitwise_the_unbroken_one(tmp_path):
    unbroken, broken, resumed = tiny_model(), tiny_model(), tiny_model(seed=1)
    optimizers = [build_optimizers(model, MuonParams()) for model in (unbroken, broken, resumed)]
    trained(8, unbroken, optimizers[0])
    trained(5, broken, optimizers[1])
    save(tmp_path, broken, optimizers[1], [Step(0.1, 2.0)] * 5)

    steps = restore(checkpoint.read_newest(tmp_path), resumed, optimizers[2])
    trained(8, resumed, optimizers[2], first=len(steps))

    assert steps == [Step(0.1, 2.0)] * 5
    assert same_weights(resumed, unbroken)


@pytest.mark.parametrize(
    ("damage", "name"),
    [*((damage, "model.safetensors") for damage in DAMAGES.values()), (Path.unlink, "manifest.json")],
    ids=[*DAMAGES, "no manifest"],
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage, name):
    model = tiny_model()
    optimizers = build_optimizers(model, MuonParams())
    trained(1, model, optimizers)
    save(tmp_path, model, optimizers, [Step(1.0, 2.0)])
    first = [parameter.clone() for parameter in model.parameters()]
    trained(2, model, optimizers, first=1)
    save(tmp_path, model, optimizers, [Step(1.0, 2.0), Step(2.0, 2.0, skipped=True)])
    damage(checkpoint.step_folder(tmp_path, 2) / name)

    steps = restore(checkpoint.read_newest(tmp_path), model, optimizers)

    assert steps == [Step(1.0, 2.0)]
    assert all(torch.equal(a, b) for a, b in zip(first, model.parameters(), strict=True))


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    model = tiny_model()
    for steps in (1, 2, 3):
        save(tmp_path, model, build_optimizers(model, MuonParams()), [Step(0.0, 0.0)] * steps)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_second_trainer_is_refused(tmp_path):
    with checkpoint.take_lease(tmp_path), pytest.raises(Refusal, match="in use by another pretrain"):
        checkpoint.take_lease(tmp_path)


def test_a_lease_ends_with_its_holder(tmp_path):
    checkpoint.take_lease(tmp_path).close()

    checkpoint.take_lease(tmp_path).close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": {**TINY, "model_type": "lama"}}, "model_type is 'lama'"),
        ({"model": {**TINY, "hiden_size": 3}}, r"pretrain\.model\.hiden_size is no field of a llama config"),
        ({"model": {**TINY, "vocab_size": 10}}, "less than the tokenizer's 50 tokens"),
        ({"model": {**TINY, "hidden_size": 15}}, r"pretrain\.model"),
    ],
)
def test_a_model_that_cant_be_is_refused(change, sentence):
    params = parse_params(PretrainParams, {**VALUES, **change}, "pretrain")

    with pytest.raises(Refusal, match=sentence):
        build_model(build_config(params.model, vocabulary=50, separator=0), params)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tokens_per_step": 60}, "must be a multiple of sequence_length"),
        ({"optimizer": {"name": "sgd"}}, r"pretrain\.optimizer"),
        ({"optimizer": {"name": "muon", "learning_rte": 1}}, "learning_rte is not a parameter"),
        ({"model": {}}, "model.model_type is missing"),
        ({"precision": "fp64"}, r"pretrain\.precision is 'fp64'"),
        ({"model": None}, "give either model"),
        ({"start": {"folder": "x", "sha256": "0" * 64, "config_sha256": "0" * 64}}, "give either model"),
        ({"numerics": "portable", "precision": "bf16"}, "needs precision: fp32"),
        ({"objective": "masked", "document_masking": True}, "document_masking is for objective: causal"),
        (phased(1000), r"phases.after_tokens \(1000\) must be a multiple of the \d+ of a block"),
        (phased(10**9), "can't follow after 1000000000"),
        ({"phases": [{"after_tokens": 1, "mixture": {"a": 0}}]}, "a has the weight 0.0"),
        (
            {"phases": [{"after_tokens": 1, "mixture": {"a": {"epochs": 2}}}]},
            "a has {'epochs': 2}, but a phase has weights only; give a positive number",
        ),
        ({"guard": {"most": -1}}, r"pretrain\.guard\.most is -1"),
        ({"schedule": {"shape": "wsd", "decay": 2}}, r"pretrain\.schedule\.decay is 2"),
    ],
)
def test_impossible_params_are_refused(change, sentence):
    with pytest.raises(Refusal, match=sentence):
        parse_params(PretrainParams, {**VALUES, **change}, "pretrain")


def test_a_phase_with_an_unknown_source_is_refused():
    params = parse_params(PretrainParams, {**VALUES, **phased(2048)}, "pretrain")

    assert [phase.begin for phase in params.order_phases({"a", "b"})] == [2048 // params.sequence_length]
    with pytest.raises(Refusal, match=r"pretrain\.phases names b in its mixture, which is no source \(known: a\)"):
        params.order_phases({"a"})


def test_yaml_writes_3e_4_as_a_string_and_the_model_takes_the_number_that_was_meant():
    params = parse_params(PretrainParams, {**VALUES, "optimizer": {"name": "adamw", "learning_rate": "3e-4"}}, "p")

    assert params.optimizer.learning_rate == pytest.approx(3e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "bert", "modernbert"])
def test_architectures_are_built_by_their_config(kind):
    objective = "masked" if "bert" in kind else "causal"
    model = {"model_type": kind, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    params = parse_params(
        PretrainParams, {**VALUES, "model": {**model, "intermediate_size": 32}, "objective": objective}, "pretrain"
    )

    built = build_model(build_config(params.model, vocabulary=60, separator=0), params)

    assert built(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.shape == (1, 4, 60)


def test_parameters_and_flops_are_those_of_a_model_worked_by_hand():
    model = tiny_model()
    layer = 4 * 16 * 16 + 3 * 16 * 32 + 2 * 16
    expected = 50 * 16 + 2 * layer + 16

    assert count_parameters(model) == expected
    assert flops_per_token(model, model.config, 8) == 6 * expected + 12 * 2 * 16 * 8
