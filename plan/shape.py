"""The shape of a model and its parameters by part, by arithmetic: nothing is built, torch isn't loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

EMBEDDING, POSITIONS, HEAD = "token embedding", "positions", "head"
ATTENTION, MLP, VECTORS, INNER = "attention", "MLP", "norms and biases", "matrices inside"


@dataclass(frozen=True)
class Shape:
    """What parameters, operations and memory follow from. Widths are in numbers per token."""

    architecture: str
    layers: int
    width: int  # of the residual stream
    heads: int
    key_heads: int  # heads of keys and values
    head_width: int
    inner: int  # of the MLP
    is_gated: bool  # the MLP has three matrices, not two
    vocabulary: int
    is_tied: bool  # the embedding is the head, too
    parts: Mapping[str, int]  # parameters of the whole model, each tensor once

    @property
    def parameters(self) -> int:
        """All of them, each tied tensor once."""
        return sum(self.parts.values())

    @property
    def embedding_parameters(self) -> int:
        """Those of tokens, positions and the head: what Kaplan et al. (arXiv:2001.08361) leave out."""
        return sum(self.parts.get(part, 0) for part in (EMBEDDING, POSITIONS, HEAD))

    @property
    def non_embedding_parameters(self) -> int:
        """Those of the layers and the last norm."""
        return self.parameters - self.embedding_parameters

    @property
    def inner_matrices(self) -> int:
        """Parameters of the matrices between embedding and head."""
        return sum(self.parts.get(part, 0) for part in (ATTENTION, MLP, INNER))

    @property
    def attention_width(self) -> int:
        """Of the queries of all heads together."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Of the keys, and of the values, of all heads together."""
        return self.key_heads * self.head_width


def shape_of(model: Mapping[str, Any], vocabulary: int) -> Shape | None:
    """The shape of `pretrain.model` for a tokenizer of `vocabulary` tokens; None if its architecture isn't known here.

    A field that isn't given has the default of transformers' config.
    """
    shape = SHAPES.get(model["model_type"])
    return shape({"vocab_size": vocabulary, **model}) if shape else None


def _llama(model: Mapping[str, Any]) -> Shape:
    width, layers = model.get("hidden_size", 4096), model.get("num_hidden_layers", 32)
    heads, inner = model.get("num_attention_heads", 32), model.get("intermediate_size", 11008)
    key_heads = model.get("num_key_value_heads") or heads
    head_width = model.get("head_dim") or width // heads
    tokens, is_tied = model["vocab_size"] * width, model.get("tie_word_embeddings", False)
    queries, keys = heads * head_width, key_heads * head_width
    biases = queries + 2 * keys + width if model.get("attention_bias") else 0
    biases += 2 * inner + width if model.get("mlp_bias") else 0
    parts = {
        EMBEDDING: tokens,
        ATTENTION: layers * (2 * width * queries + 2 * width * keys),
        MLP: layers * 3 * width * inner,
        VECTORS: layers * (2 * width + biases) + width,
        HEAD: 0 if is_tied else tokens,
    }
    return Shape("llama", layers, width, heads, key_heads, head_width, inner, True, model["vocab_size"], is_tied, parts)


def _gpt2(model: Mapping[str, Any]) -> Shape:
    width, layers, heads = model.get("n_embd", 768), model.get("n_layer", 12), model.get("n_head", 12)
    inner, tokens = model.get("n_inner") or 4 * width, model["vocab_size"] * width
    is_tied = model.get("tie_word_embeddings", True)
    parts = {
        EMBEDDING: tokens,
        POSITIONS: model.get("n_positions", 1024) * width,
        ATTENTION: layers * 4 * width * width,
        MLP: layers * 2 * width * inner,
        VECTORS: layers * (9 * width + inner) + 2 * width,  # two norms, and a bias to each matrix
        HEAD: 0 if is_tied else tokens,
    }
    head_width = width // heads
    return Shape("gpt2", layers, width, heads, heads, head_width, inner, False, model["vocab_size"], is_tied, parts)


def _gpt_neox(model: Mapping[str, Any]) -> Shape:
    width, layers = model.get("hidden_size", 6144), model.get("num_hidden_layers", 44)
    heads, inner = model.get("num_attention_heads", 64), model.get("intermediate_size", 24576)
    tokens, is_tied = model["vocab_size"] * width, model.get("tie_word_embeddings", False)
    biases = inner + width + (4 * width if model.get("attention_bias", True) else 0)
    parts = {
        EMBEDDING: tokens,
        ATTENTION: layers * 4 * width * width,
        MLP: layers * 2 * width * inner,
        VECTORS: layers * (4 * width + biases) + 2 * width,
        HEAD: 0 if is_tied else tokens,
    }
    head_width = width // heads
    return Shape("gpt_neox", layers, width, heads, heads, head_width, inner, False, model["vocab_size"], is_tied, parts)


SHAPES: dict[str, Callable[[Mapping[str, Any]], Shape]] = {"llama": _llama, "gpt2": _gpt2, "gpt_neox": _gpt_neox}
