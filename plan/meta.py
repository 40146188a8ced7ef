"""The shape of any other architecture: transformers builds it on the meta device, where tensors have no values."""

from collections.abc import Mapping
from typing import Any

import torch

from plan.shape import EMBEDDING, HEAD, INNER, VECTORS, Shape
from stages.pretrain.model import build_config, build_model
from stages.pretrain.params import PretrainParams


def measure_shape(params: PretrainParams, described: Mapping[str, Any], vocabulary: int) -> Shape:
    """The shape of the model `described` so.

    Its parameters are given by what a model of any architecture has: embedding, head, the rest.

    Raises:
        Refusal: if transformers can't build it.
    """
    config = build_config(described, vocabulary, 0)
    with torch.device("meta"):
        model = build_model(config, params)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()  # type: ignore[operator]
    is_tied = head is not None and head.weight is embedding
    own_head = 0 if head is None or is_tied else head.weight.numel()
    matrices = sum(each.numel() for each in model.parameters() if each.ndim >= 2)
    parts = {
        EMBEDDING: embedding.numel(),
        INNER: matrices - embedding.numel() - own_head,
        VECTORS: sum(each.numel() for each in model.parameters() if each.ndim < 2),
        HEAD: own_head,
    }
    width, heads = config.hidden_size, config.num_attention_heads
    return Shape(
        config.model_type, config.num_hidden_layers, width, heads,
        key_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_width=getattr(config, "head_dim", None) or width // heads,
        inner=getattr(config, "intermediate_size", None) or 4 * width,
        is_gated=False, vocabulary=config.vocab_size, is_tied=is_tied, parts=parts,
    )  # fmt: skip
