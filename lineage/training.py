"""What a build trained on: its token shards as one stream for each source, and the plan of its steps.

dvc.lock and the manifests of data/tokenize  ->  where each shard begins in the stream, and a Plan (lineage.steps)

Parameters are those of dvc.lock: with them the stage ran, whatever params.yaml has become since.
"""

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from lineage.attestation.digests import md5_of
from lineage.checkout import files_of
from lineage.documents import TOKENIZE, sources
from lineage.history import LOCK, Build, Stage, text_at
from lineage.steps import Plan
from stages import mixture, order
from stages.documents import read_manifest
from stages.mixture import Mixture, parse_mixture
from stages.order import count_windows
from stages.params import Refusal, parse_params
from stages.pretrain.params import PretrainParams

PRETRAIN, CHECKPOINTS = "pretrain", "models/checkpoints"


@dataclass(frozen=True)
class TokenShard:
    """The tokens of a shard: [begin, end) of the stream of the source."""

    number: int
    begin: int
    end: int


def plan_of(root: Path, build: Build, folder: Path) -> Plan:
    """What `build`, whose files are laid out in `folder`, trained on.

    Raises:
        Refusal: if it has no model yet, or its sample order isn't known any more.
    """
    stage = build.stages.get(PRETRAIN)
    if stage is None or not sources(folder, TOKENIZE):
        raise Refusal(f"{LOCK} of {build.title} has no pretrain stage: nothing was trained; run `dvc repro`")
    check_order(root, build, stage)
    check_tokens(root, build, stage)
    params = parse_params(PretrainParams, stage.params.get(PRETRAIN), f"{LOCK} of {build.title}: {PRETRAIN}")
    given = mixture_of(build, stage.params.get("mixture"), folder)
    windows = {name: count_windows(stream_of(folder, name)[-1].end, params.sequence_length) for name in given}
    return Plan(
        params.sample_order(given, windows),
        params.sequence_length,
        params.samples_per_step,
        params.steps,
        params.objective == "causal",
        checkpoints_of(root, build, params),
    )


def check_order(root: Path, build: Build, stage: Stage) -> None:
    """Refuse a build that was trained in another order than this version's, or with epochs that were other shares.

    Comments and docstrings may differ.

    Raises:
        Refusal: if its order is another, or isn't known any more.
    """
    given = stage.params.get("mixture")
    in_epochs = isinstance(given, Mapping) and any(isinstance(entry, Mapping) for entry in given.values())
    for module in (order, mixture) if in_epochs else (order,):
        path = Path(str(module.__file__))
        name, own = f"stages/{path.name}", path.read_text(encoding="utf-8")
        dep = stage.deps.get(name)
        if dep is None or digest_of(own) == dep.md5:
            continue
        theirs = text_at(root, build, name)
        if theirs is None or digest_of(theirs) != dep.md5 or instructions(theirs) != instructions(own):
            raise Refusal(
                f"{build.title} was trained with another {name} than this version's, so its steps can't be computed "
                f"here; ask with the version of Pedigree that trained it"
            )


def check_tokens(root: Path, build: Build, stage: Stage) -> None:
    """Refuse a working tree whose token shards were made again after its model, which then has other steps.

    Nothing is refused where the list of a folder's files isn't in the cache.

    Raises:
        Refusal: if the model was trained on other token shards.
    """
    read = stage.deps.get(TOKENIZE)
    files: dict[str, str] = {}
    for path, out in build.outs.items():
        if path.startswith(f"{TOKENIZE}/"):
            listed = files_of(root, out)
            if listed is None:
                return
            source = path.removeprefix(f"{TOKENIZE}/")
            files |= {f"{source}/{name}": file.parent.name + file.name for name, file in listed.items()}
    if read is not None and md5_of(files) != read.md5:
        raise Refusal(
            f"{build.title} has token shards that its model wasn't trained on: they were made again since; "
            f"run `dvc repro`, or ask for the build before: --at HEAD"
        )


def digest_of(text: str) -> str:
    """The digest of a file with this text, as DVC has it."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def instructions(code: str) -> str:
    """What Python does for `code`: its syntax tree, without docstrings."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)


def mixture_of(build: Build, given: Any, folder: Path) -> Mixture:
    """What each source gave, by name.

    Raises:
        Refusal: if the build has no mixture, or a source of it has no token shards any more.
    """
    if not isinstance(given, Mapping):
        raise Refusal(f"{LOCK} of {build.title} has no mixture: its sample order is unknown")
    if gone := sorted(set(given) - set(sources(folder, TOKENIZE))):
        raise Refusal(
            f"{TOKENIZE} hasn't the sources that {LOCK} of {build.title} was trained on: {', '.join(gone)} is missing; "
            f"run `dvc repro`, or ask for a commit: --at HEAD"
        )
    return parse_mixture(given, f"{LOCK} of {build.title}")


def stream_of(folder: Path, source: str) -> list[TokenShard]:
    """The shards of the token stream of `source`, in order."""
    manifest = read_manifest(folder / TOKENIZE / source)
    sizes = [entry["bytes"] for entry in manifest["shards"] if entry["path"].endswith(".bin")]
    tokens = manifest["counts"]["tokens"]
    width = sum(sizes) // max(tokens, 1) or 1  # bytes of a token: the same in all shards
    ends = list(accumulate(size // width for size in sizes))
    return [TokenShard(number, begin, end) for number, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))]


def checkpoints_of(root: Path, build: Build, params: PretrainParams) -> tuple[int, ...]:
    """The steps after which `build` published weights, besides its base model."""
    out = build.outs.get(CHECKPOINTS)
    files = files_of(root, out) if out else None
    if files is None:  # the list of its files is not in the cache, so: as the trainer publishes them
        return tuple(step for step in range(1, params.steps + 1) if out and params.publishes(step))
    return tuple(sorted({int(path.split("/")[0].rpartition("-")[2]) for path in files if path.startswith("step-")}))
