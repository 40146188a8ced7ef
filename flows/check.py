"""Every section of params.yaml, checked by the model of the stage that it is for, before anything runs."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from flows.lock import unlocked
from flows.places.settings import read_places
from flows.settings import flow_settings
from stages.mixture import load_mixture
from stages.params import Refusal, load_params, read_params, source_names
from stages.settings import settings

DAG = Path("dvc.yaml")
# By name, not by import: none of them is loaded before it is asked, and a flow doesn't depend on stages.
SOURCE_MODELS = {"extract": "stages.extract.params.ExtractParams", "filter": "stages.filter.FilterParams"}
STAGE_MODELS = {
    "fingerprint": "stages.minhash.FingerprintParams",
    "dedup": "stages.dedup.params.DedupParams",
    "tokenizer": "stages.tokenizer.TokenizerParams",
    "tokenize": "stages.tokenize.TokenizeParams",
    "pretrain": "stages.pretrain.params.PretrainParams",
    "evaluate": "stages.evaluate.params.EvaluateParams",
}


def check_params() -> int:
    """How many sections there are, all valid.

    Raises:
        Refusal: one sentence about all that is wrong, in the parameters and in the environment.
    """
    checks: list[Callable[[], Any]] = [
        settings,
        flow_settings,
        _places,
        _no_strangers,
        _takedown,
        load_mixture,
        _phases,
        _written,
        *_source_checks(),
        *_stage_checks(),
    ]
    problems = [problem for check in checks if (problem := _problem(check))]
    if problems:
        raise Refusal("; ".join(problems))
    return len(read_params()) + len(source_names()) * (len(SOURCE_MODELS) + 1)


def check_lock() -> None:
    """Refuse sources that aren't locked.

    Raises:
        Refusal: one sentence; DVC would only say that a parameter is missing.
    """
    if troubles := unlocked():
        raise Refusal("; ".join(troubles))


def _places() -> None:
    """Refuse a place for no stage; the DAG takes a second to read, so only where there are places."""
    places = read_places()
    if places.patterns:
        from flows.dag import read_dag

        places.check(stage.name for stage in read_dag().stages)


def _source_checks() -> list[Callable[[], Any]]:
    checks: list[Callable[[], Any]] = []
    for source in source_names():
        checks.append(partial(_download_section, source))
        checks += [partial(_section, model, f"sources.{source}.{name}") for name, model in SOURCE_MODELS.items()]
    return checks


def _stage_checks() -> list[Callable[[], Any]]:
    return [partial(_section, model, name) for name, model in STAGE_MODELS.items()]


def _section(model: str, section: str) -> None:
    load_params(_named(model), section)


def _download_section(source: str) -> None:
    _named("stages.download.params.download_params")(source)  # what a section may hold depends on its kind


def _takedown() -> None:
    """Refuse a takedown list that filter can't read; DVC says so if there is none."""
    if Path("takedown.jsonl").exists():
        _named("stages.takedown.read_takedown")()


def _phases() -> None:
    """Refuse a phase of the training with a source that isn't there; what else is wrong, other checks say."""
    if isinstance(section := read_params().get("pretrain"), dict) and section.get("phases"):
        load_params(_named(STAGE_MODELS["pretrain"]), "pretrain").order_phases(load_mixture())


def _written() -> None:
    """Refuse to leave out a parameter that dvc.yaml names alone: DVC wants it written, although it has a default."""
    dag = yaml.safe_load(DAG.read_text(encoding="utf-8")) if DAG.exists() else {}
    described = [stage.get("do", stage) for stage in dag.get("stages", {}).values()]
    names = {name for stage in described for name in stage.get("params", ()) if isinstance(name, str)}
    params = read_params()
    for section, _, name in sorted(name.partition(".") for name in names if "${" not in name):
        if name and isinstance(params.get(section), dict) and name not in params[section]:
            raise Refusal(
                f"params.yaml: {section}.{name} is missing, and {DAG} names it; add it, with its default if no other "
                f"is wanted (docs/parameters.md)"
            )


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _no_strangers() -> None:
    """Refuse a section that no stage reads: most likely it is misspelt."""
    known = {"sources", "mixture", *STAGE_MODELS}
    strangers = [name for name in read_params() if name not in known]
    of_source = {"download", *SOURCE_MODELS}
    for source in source_names():
        sections = read_params()["sources"][source]
        if not isinstance(sections, dict):
            raise Refusal(f"params.yaml: sources.{source} must map {', '.join(sorted(of_source))} to their parameters")
        strangers += [f"sources.{source}.{name}" for name in sections if name not in of_source]
    if strangers:
        raise Refusal(
            f"params.yaml: no stage reads {', '.join(map(str, strangers))}; remove it or correct its spelling "
            f"(known: {', '.join(sorted(known))}; in a source: {', '.join(sorted(of_source))})"
        )


def _problem(check: Callable[[], Any]) -> str | None:
    try:
        check()
    except Refusal as refusal:
        return str(refusal)
    return None
