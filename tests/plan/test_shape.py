"""Parameters by arithmetic are those that transformers builds."""

import pytest
from small_models import LLAMA, NEOX, on_meta, params_of

from plan.meta import measure_shape
from plan.shape import shape_of


@pytest.mark.parametrize(
    "model",
    [
        {"model_type": "llama"},
        {"model_type": "llama", **LLAMA},
        {"model_type": "llama", **LLAMA, "num_key_value_heads": 2, "head_dim": 24, "tie_word_embeddings": True},
        {"model_type": "llama", **LLAMA, "attention_bias": True, "mlp_bias": True},
        {"model_type": "gpt2"},
        {"model_type": "gpt2", "n_embd": 96, "n_layer": 3, "n_head": 4, "n_inner": 100, "n_positions": 64},
        {"model_type": "gpt2", "n_embd": 96, "n_layer": 3, "tie_word_embeddings": False},
        {"model_type": "gpt_neox"},
        {**NEOX},
        {**NEOX, "attention_bias": False, "tie_word_embeddings": True},
    ],
)
def test_arithmetic_counts_what_transformers_builds(model):
    shape = shape_of(model, 1000)

    parameters = dict(on_meta(model, 1000).named_parameters())
    assert shape.parameters == sum(each.numel() for each in parameters.values())
    outside = ("embed", "wte", "wpe", "lm_head")
    inside = [each for name, each in parameters.items() if not any(word in name for word in outside)]
    assert shape.non_embedding_parameters == sum(each.numel() for each in inside)
    assert shape.inner_matrices == sum(each.numel() for each in inside if each.ndim == 2)


@pytest.mark.parametrize(
    ("model", "objective"),
    [
        ({"model_type": "qwen3", **LLAMA, "head_dim": 16}, "causal"),
        ({"model_type": "llama", **LLAMA}, "causal"),
        ({"model_type": "bert", **LLAMA}, "masked"),
    ],
)
def test_another_architecture_is_counted_by_building_it_without_values(model, objective):
    shape = measure_shape(params_of(model, objective=objective), model, 1000)

    assert (shape.layers, shape.width, shape.heads, shape.inner, shape.vocabulary) == (3, 96, 6, 160, 1000)
    known = shape_of(model, 1000)
    if known:
        assert shape.parameters == known.parameters
        assert shape.inner_matrices == known.inner_matrices
        assert shape.embedding_parameters == known.embedding_parameters
    else:
        assert shape.embedding_parameters >= 1000 * 96
        assert shape.inner_matrices > 3 * 3 * 96 * 160 * 2 / 3


def test_an_unknown_architecture_isn_t_counted_by_arithmetic():
    assert shape_of({"model_type": "qwen3"}, 1000) is None
