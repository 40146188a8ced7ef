"""A base model whose training goes on here: its config and weights, from a folder, pinned by digest."""

import hashlib
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from stages.params import Refusal
from stages.pretrain.model import auto_model
from stages.pretrain.params import PretrainParams, StartParams
from stages.tokens import load_tokenizer

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def start_config(start: StartParams, tokenizer: Tokenizer) -> PretrainedConfig:
    """The config of the base model.

    Raises:
        Refusal: if a file of it is missing or another than the pinned one, or its vocabulary isn't that of `tokenizer`.
    """
    folder = Path(start.folder)
    for name, field, wanted in ((WEIGHTS, "sha256", start.sha256), (CONFIG, "config_sha256", start.config_sha256)):
        if not (folder / name).is_file():
            raise Refusal(f"params.yaml: pretrain.start.folder is {folder}, which has no {name}; correct it")
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wanted:
            raise Refusal(
                f"{folder / name} has the sha256 {found}, pretrain.start.{field} in params.yaml is {wanted}; "
                f"get the pinned file, or pin this one"
            )
    if load_tokenizer(folder)[0].get_vocab() != tokenizer.get_vocab():
        raise Refusal(
            f"{folder}/tokenizer.json has another vocabulary than models/tokenizer; set tokenizer.existing in "
            f"params.yaml to {folder}"
        )
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def start_model(start: StartParams, config: PretrainedConfig, params: PretrainParams) -> nn.Module:
    """The base model with its weights, in 32-bit floats.

    Raises:
        Refusal: if the weights aren't those of such a model.
    """
    torch.manual_seed(params.seed)
    try:
        model: nn.Module
        model, report = auto_model(params).from_pretrained(
            start.folder, config=config, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            dtype=torch.float32, output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # transformers, safetensors and torch raise their own
        raise Refusal(
            f"{start.folder}/{WEIGHTS} can't be loaded: {' '.join(str(error).split())}; "
            f"set pretrain.start.folder in params.yaml to a model that transformers wrote"
        ) from error
    if wrong := sorted({*report["missing_keys"], *report["unexpected_keys"]}):
        raise Refusal(
            f"{start.folder}/{WEIGHTS} isn't of a {type(model).__name__}: {wrong[0]} is missing or unknown; "
            f"set pretrain.objective in params.yaml to that of the base model"
        )
    return model.train()
