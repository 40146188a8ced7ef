"""Any transformers architecture, by its config; and its files, as transformers reads them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import convert_model_to_fp8_ao
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, GenerationConfig, PretrainedConfig

from stages.documents import write_json
from stages.params import Refusal
from stages.pretrain.params import PretrainParams

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def build_config(described: Mapping[str, Any], vocabulary: int, separator: int) -> PretrainedConfig:
    """The transformers config of `described` (pretrain.model), for a tokenizer of `vocabulary` tokens.

    Raises:
        Refusal: if the architecture or one of its fields is unknown, or the vocabulary doesn't fit.
    """
    fields = dict(described)
    kind = fields.pop("model_type")
    try:
        known = AutoConfig.for_model(kind).to_dict()
    except (ValueError, KeyError):
        raise Refusal(f"params.yaml: pretrain.model.model_type is {kind!r}, which transformers doesn't know") from None
    for name in fields:
        if name not in known:
            raise Refusal(f"params.yaml: pretrain.model.{name} is no field of a {kind} config; correct or remove it")
    if fields.get("vocab_size", vocabulary) < vocabulary:
        raise Refusal(
            f"params.yaml: pretrain.model.vocab_size is {fields['vocab_size']}, less than the tokenizer's "
            f"{vocabulary} tokens; raise or remove it"
        )
    # The separator stands for every special token that the architecture asks for, but for padding: no sample
    # is padded, and an architecture gives the token for it no embedding.
    special = {name: None if name == "pad_token_id" else separator for name in known if name.endswith("_token_id")}
    fields = {"vocab_size": vocabulary, **special, **fields}
    try:
        return AutoConfig.for_model(kind, **fields)
    except Exception as error:  # transformers' strict dataclasses raise their own
        raise Refusal(f"params.yaml: pretrain.model is no {kind} config: {' '.join(str(error).split())}") from error


def build_model(config: PretrainedConfig, params: PretrainParams) -> nn.Module:
    """The model with its initial weights, a function of the config and the seed."""
    torch.manual_seed(params.seed)
    try:
        model: nn.Module = auto_model(params).from_config(config)
    except Exception as error:  # whatever the architecture says of impossible sizes
        raise Refusal(
            f"params.yaml: pretrain.model can't be built: {' '.join(str(error).split())}; correct its sizes"
        ) from error
    return model


def auto_model(params: PretrainParams) -> Any:
    """The class by which transformers finds the model for an objective."""
    return AutoModelForCausalLM if params.objective == "causal" else AutoModelForMaskedLM


def prepare_layers(model: nn.Module, params: PretrainParams, recomputed: bool) -> None:
    """Let the layers compute in fp8, keep only their inputs for the backward pass, and be compiled, as far as asked.

    What isn't kept is computed again (Chen et al. 2016, arXiv:1604.06174).

    Raises:
        Refusal: if the architecture can't recompute its layers, or nothing compiles here.
    """
    if recomputed:
        if not model.supports_gradient_checkpointing:
            raise Refusal(f"PEDIGREE_RECOMPUTE is set, but {type(model).__name__} can't recompute its layers; unset it")
        model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    if params.precision == "fp8":
        convert_model_to_fp8_ao(model)
    if params.compile:
        if not compiles_here():
            raise Refusal(
                "params.yaml: pretrain.compile needs a C++ compiler, such as g++; install one, or set it to false"
            )
        for layer in layers(model):
            layer.compile(dynamic=False)


def compiles_here() -> bool:
    """Whether there is what torch.compile needs: a GPU, or a C++ compiler."""
    return torch.cuda.is_available() or any(map(shutil.which, ("c++", "g++", "clang++")))


def layers(model: nn.Module) -> nn.ModuleList:
    """The layers of `model`, as a list: the longest that it has."""
    return max((each for each in model.modules() if isinstance(each, nn.ModuleList)), key=len)


def count_parameters(model: nn.Module) -> int:
    """Parameters of `model`, each tied tensor once."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops_per_token(model: nn.Module, config: PretrainedConfig, length: int) -> float:
    """Floating-point operations of a training token: 6N + 12·layers·width·length.

    N leaves out the embedding, unless it is the head as well (Kaplan et al. 2020, arXiv:2001.08361, section
    2.1; the attention term as in PaLM's appendix B, arXiv:2204.02311).
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    tied = head is not None and head.weight is embedding.weight
    matrices = count_parameters(model) - (0 if tied else embedding.weight.numel())
    return 6.0 * matrices + 12.0 * float(config.num_hidden_layers * config.hidden_size * length)


def architecture(model: nn.Module) -> str:
    """The name of the class of `model`, as transformers knows it."""
    return type(model).__name__.removeprefix("FSDP")  # fully_shard gives the class another name


def write_weights(weights: dict[str, Tensor], name: str, config: PretrainedConfig, folder: Path) -> None:
    """Write `weights` and config of the architecture `name` into `folder`, as `from_pretrained` reads them.

    No versions, no dates.
    """
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    described = {**config.to_dict(), "architectures": [name], "dtype": "float32"}
    write_json(folder / "config.json", _pure(described))


def write_base(weights: dict[str, Tensor], name: str, config: PretrainedConfig, tokenizer: Path, folder: Path) -> None:
    """Write the finished model with its tokenizer into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(weights, name, config, folder)
    write_json(folder / "generation_config.json", _pure(GenerationConfig.from_model_config(config).to_dict()))
    for file in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / file, folder / file)


def _pure(described: dict[str, Any]) -> dict[str, Any]:
    """`described` without what differs between two machines that made the same model."""
    described = json.loads(json.dumps(described, default=str))
    described.pop("transformers_version", None)
    described.pop("_name_or_path", None)
    return described
