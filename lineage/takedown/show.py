"""The answer to a takedown, for people and for programs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from lineage.plain import plain
from lineage.takedown.answer import Answer, InBuild, InCheckpoint, answer
from lineage.terminal import UNKNOWN, console, marked, tables
from stages.takedown import TAKEDOWN, Entry, Takedown

FEW = 10  # copies and ids that are shown; --json has all
NAMES = 3  # of builds that are alike


def print_answer(question: Takedown, with_copies: bool = False, as_json: bool = False, root: Path = Path()) -> Answer:
    """Write the answer to `question` to stdout; return it."""
    found = answer(root, question, with_copies)
    if as_json:
        print(json.dumps(to_json(found), indent=2, ensure_ascii=False))
    else:
        show(found, console())
    return found


def show(found: Answer, console: Console) -> None:
    """Write `found` to `console`, for people."""
    console.print(f"Documents asked for: {found.documents:,} found, in {len(found.builds)} builds.\n")
    datasets = ("build", "source", "documents", "tokens", "of the source's")
    for table in tables("Datasets that have them", datasets, _datasets(found), 2):
        console.print(table)
    models = ("build", "first step", "last clean checkpoint", "windows of models/base", "its target tokens", "of all")
    for table in tables("Models that were trained on them", models, _checkpoints(found), 3):
        console.print(table)
    for sentence in sentences(found):
        console.print(plain(sentence), soft_wrap=True)


def sentences(found: Answer) -> Iterator[str]:
    """What is to be known beside the tables."""
    clean = [each for each in found.builds if each.status == "clean"]
    if clean:
        names = ", ".join(each.build.title for each in clean[:FEW])
        yield f"Clean of them: {names}{f' and {len(clean) - FEW} more' if len(clean) > FEW else ''}."
    yield _newest_clean(found)
    if found.copies:
        first = ", ".join(f"{copy.id} ({marked(copy.source, copy.synthetic)})" for copy in found.copies[:FEW])
        yield (
            f"Duplicates that are not asked for, one of which may take their place: {len(found.copies)}, {first}"
            f"{', …' if len(found.copies) > FEW else ''}. --copies asks for them, too."
        )
    if found.unmatched:
        ids = ", ".join(entry.value for entry in found.unmatched[:FEW])
        yield f"No build that could be read has {ids}{', …' if len(found.unmatched) > FEW else ''}."
    for each in found.builds:
        for sentence in each.unknown:
            yield f"Unknown of {each.build.title}: {sentence}."
    if found.is_shallow:
        yield "This clone is shallow: older builds are not known here; `git fetch --unshallow --tags` brings them."
    yield from _cost(found)


def _newest_clean(found: Answer) -> str:
    if found.newest_clean is None:
        return "No checkpoint of a build that could be read is clean of all of them."
    newest, checkpoint = found.newest_clean
    return f"Newest checkpoint that is clean of all of them: {_name(newest, checkpoint)} of {newest.build.title}."


def _cost(found: Answer) -> Iterator[str]:
    if found.cost is None:
        return
    if not found.cost.stages:
        yield "The build that is here is without them."
        return
    known = [seconds for seconds in found.cost.stages.values() if seconds is not None]
    unknown = [name for name, seconds in found.cost.stages.items() if seconds is None]
    took = f"{sum(known):,.0f} s last time" if known else "for a time that no record tells"
    besides = f" (and {', '.join(unknown)}: unknown)" if known and unknown else ""
    again = f", {found.cost.tokens:,} tokens to train on" if found.cost.tokens else ""
    yield (
        f"A build without them runs {len(found.cost.stages)} stages again at most, {took}{besides}{again}: "
        f"{', '.join(found.cost.stages)}."
    )


def _datasets(found: Answer) -> Iterator[tuple[str, ...]]:
    for title, each in _alike(found):
        for source in each.sources:
            fates = ", ".join(f"{count:,} {fate}" for fate, count in sorted(source.fates.items()))
            share = f"{source.tokens / source.of:.3%}" if source.of else UNKNOWN
            yield title, source.name, fates or UNKNOWN, f"{source.tokens:,}", share


def _checkpoints(found: Answer) -> Iterator[tuple[str, ...]]:
    for title, each in _alike(found):
        if each.status == "has" and each.checkpoints:
            base = each.checkpoints[-1]
            clean = [checkpoint for checkpoint in each.checkpoints if checkpoint.is_clean]
            first = f"{each.first_step:,}" if each.first_step else "none" if base.is_clean else UNKNOWN
            share = f"{base.tokens / base.of:.4%}" if base.of else UNKNOWN
            last_clean = _name(each, clean[-1]) if clean else "none"
            yield title, first, last_clean, f"{base.samples:,}", f"{base.tokens:,}", share


def _alike(found: Answer) -> Iterator[tuple[str, InBuild]]:
    """One of the builds that have the same files, with the names of all."""
    groups: dict[str, list[InBuild]] = {}
    for each in found.builds:
        groups.setdefault(repr((each.sources, each.checkpoints, each.first_step, each.unknown)), []).append(each)
    for builds in groups.values():
        names = ", ".join(each.build.dated for each in builds[:NAMES])
        yield names + (f" and {len(builds) - NAMES} more" if len(builds) > NAMES else ""), builds[0]


def _name(found: InBuild, checkpoint: InCheckpoint) -> str:
    if checkpoint.step is None or checkpoint is found.checkpoints[-1]:
        return "models/base"
    return f"step-{checkpoint.step:08d}"


def to_json(found: Answer) -> dict[str, Any]:
    """The answer as plain values."""
    newest = found.newest_clean
    return {
        "question": [_entry(entry) for entry in found.question.entries],
        "documents": found.documents,
        "builds": [_build(each) for each in found.builds],
        "newest_clean": newest and {"build": newest[0].build.title, "commit": newest[0].build.commit,
                                    "checkpoint": _name(*newest), "step": newest[1].step},
        "copies": [vars(copy) for copy in found.copies],
        "unmatched": [_entry(entry) for entry in found.unmatched],
        "rebuild": found.cost and {"stages": found.cost.stages, "tokens": found.cost.tokens},
        "shallow": found.is_shallow,
        "list": str(TAKEDOWN),
    }  # fmt: skip


def _entry(entry: Entry) -> dict[str, Any]:
    return entry.model_dump(exclude_none=True)


def _build(found: InBuild) -> dict[str, Any]:
    build = found.build
    return {
        "build": build.title,
        "commit": build.commit,
        "date": build.date,
        "names": list(build.names),
        "status": found.status,
        "first_step": found.first_step,
        "sources": [
            {"source": each.name, "documents": each.fates, "tokens": each.tokens, "of": each.of}
            for each in found.sources
        ],
        "checkpoints": [
            {"checkpoint": _name(found, each), "step": each.step, "windows": each.samples, "tokens": each.tokens,
             "of": each.of, "clean": each.is_clean}
            for each in found.checkpoints
        ],
        "unknown": list(found.unknown),
    }  # fmt: skip
