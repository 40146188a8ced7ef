"""Small models of several architectures, as parameters and on the meta device, where tensors have no values."""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from stages.pretrain.params import PretrainParams

LLAMA = {"hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 6}
NEOX = {"model_type": "gpt_neox", **LLAMA}


def params_of(model: dict[str, Any], **changed: Any) -> PretrainParams:
    """Parameters that train `model`, in bf16 with AdamW unless `changed` says so."""
    values = {"model": model, "sequence_length": 32, "tokens": 3200, "tokens_per_step": 64, **changed}
    return PretrainParams.model_validate(
        {"optimizer": {"name": "adamw"}, "schedule": {"shape": "wsd"}, "precision": "bf16", **values}
    )


def on_meta(model: dict[str, Any], vocabulary: int) -> nn.Module:
    """The model that transformers builds of these fields, without values."""
    fields = {"vocab_size": vocabulary, **model}
    with torch.device("meta"):
        whole: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    return whole
