"""Text that a pinned language model writes: prompts, a model, a seed  ->  JSON lines, marked as synthetic.

The model is a folder, or a repository of Hugging Face's hub at a commit; its weights are safetensors, and no code of it
is run. The same kind of processor with the same libraries writes the same bytes; another may not, and is then refused
as drift, so whoever publishes a corpus keeps the lines.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from stages.documents import publish, shard_name
from stages.download.hub import import_datasets
from stages.download.made import fill_made, is_the_same, refuse_another, taken
from stages.download.params import SyntheticParams
from stages.download.scratch import digest_of, folder_of
from stages.locked import Locked, LockedFile
from stages.params import Refusal
from stages.remote import Pace, asked, pace_of, patiently

log = logging.getLogger("pedigree")

MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")

# Of a prompt and a seed, the texts that follow it.
Writer = Callable[[str, int], list[str]]


def ask(params: SyntheticParams, source: str, before: Locked | None) -> Locked:
    """The texts of the model as it is now; those of `before` if they are of the same.

    Raises:
        Refusal: if model or prompts can't be had.
    """
    model, revision = _model(params, params.revision, pace_of(source))
    url = url_of(params, model, revision)
    if before and is_the_same(before, revision, url):
        return before
    made = _made(params, source, model, url)
    return Locked(kind="synthetic", revision=revision, files=tuple(made))


def fill(params: SyntheticParams, source: str, locked: Locked, folder: Path) -> None:
    """Put the locked texts into `folder`, written anew if scratch doesn't have them.

    Raises:
        Refusal: if model, prompts or parameters are others than were locked, or the texts come out otherwise.
    """
    model, revision = _model(params, locked.revision or params.revision, pace_of(source))
    url = url_of(params, model, revision)
    refuse_another(source, locked, url)
    fill_made(source, locked, folder, lambda: _made(params, source, model, url))


def url_of(params: SyntheticParams, model: Path, revision: str | None) -> str:
    """What is asked for: the model, the prompts and how it is sampled."""
    asked_for = params.model_dump(exclude={"kind", "model", "revision", "prompts"}, exclude_none=True)
    digests = {"weights": _digest_of_model(model)[:16], "prompts": digest_of(_prompts_file(params))[:16]}
    return f"model:{params.model}{f'@{revision}' if revision else ''}?{urlencode({**digests, **asked_for})}"


def write_texts(path: Path, prompts: list[tuple[int, str]], params: SyntheticParams, write: Writer) -> None:
    """Write what `write` makes of numbered `prompts`, a line of JSON for each text, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        for number, prompt in prompts:
            for sample, text in enumerate(write(prompt, seed_of(params.seed, number))):
                line = {"text": text, "id": f"{number}-{sample}", "prompt": prompt}
                file.write(json.dumps(line, ensure_ascii=True) + "\n")
    publish(partial, path)


def seed_of(seed: int, number: int) -> int:
    """The seed of the prompt of this number: its texts don't depend on the prompts before it."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{number}".encode(), digest_size=7).digest(), "big")


def read_prompts(path: Path) -> Iterator[tuple[int, str]]:
    """The prompts in a file, one a line, numbered by their lines; empty lines are none."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if prompt := line.strip():
                yield number, prompt


def _made(params: SyntheticParams, source: str, model: Path, url: str) -> list[LockedFile]:
    """The files of texts; those that an interrupted run has left whole aren't written again."""
    folder = folder_of(source) / hashlib.sha256(url.encode()).hexdigest()[:32]
    folder.mkdir(exist_ok=True)
    prompts, write = read_prompts(_prompts_file(params)), None
    made: list[LockedFile] = []
    while some := list(islice(prompts, params.prompts_per_file)):
        path = folder / shard_name("texts", len(made), "jsonl")
        if not path.exists():
            write = write or _writer(params, model)
            write_texts(path, some, params, write)
            log.info("%s: %d prompts answered", source, some[-1][0] + 1)
        made.append(taken(path, url))
    if not made:
        raise Refusal(f"{params.prompts} has no prompt; write one on each line")
    return made


def _prompts_file(params: SyntheticParams) -> Path:
    path = Path(params.prompts)
    if not path.is_file():
        raise Refusal(f"{path}: there is no such file; correct prompts in params.yaml")
    return path


def _model(params: SyntheticParams, revision: str, pace: Pace) -> tuple[Path, str | None]:
    """The folder of the model, and the commit if it is from the hub.

    Raises:
        Refusal: if it can't be had, or has no safetensors.
    """
    folder, commit = Path(params.model), None
    if not folder.is_dir():
        import_datasets(pace)
        from huggingface_hub import snapshot_download

        where = f"hf://{params.model}@{revision}"
        fetch = lambda: snapshot_download(params.model, revision=revision, allow_patterns=list(MODEL_FILES))  # noqa: E731
        folder = Path(patiently(lambda: asked(fetch, where, pace), where))
        commit = folder.name
    if not any(folder.glob("*.safetensors")):
        raise Refusal(f"{params.model} has no *.safetensors; only such weights are read, convert it first")
    return folder, commit


def _digest_of_model(folder: Path) -> str:
    files = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})
    return hashlib.sha256("".join(f"{path.name} {digest_of(path)}\n" for path in files).encode()).hexdigest()


def _writer(params: SyntheticParams, folder: Path) -> Writer:
    """The model, ready to write; torch is loaded for this kind alone."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise Refusal("a source of kind synthetic needs torch; run `pip install 'pedigree[train]'`") from None
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
    model = model.float().eval()
    end = model.generation_config.eos_token_id
    padding = end[0] if isinstance(end, list) else end
    sampling: dict[str, Any] = {"do_sample": True, "temperature": params.temperature, "top_p": params.top_p, "top_k": 0}

    def write(prompt: str, seed: int) -> list[str]:
        torch.manual_seed(seed)
        torch.set_num_threads(1)  # sums come out otherwise with more, and the texts with them
        given = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            tokens = model.generate(
                **given,
                **sampling,
                max_new_tokens=params.tokens,
                num_return_sequences=params.samples,
                pad_token_id=0 if padding is None else padding,
            )
        begin = 0 if params.with_prompt else given["input_ids"].shape[1]
        return [str(text) for text in tokenizer.batch_decode(tokens[:, begin:], skip_special_tokens=True)]

    return write
