"""The answer to a takedown, of all builds: where the documents are, what is clean of them, what a build without costs.

question, builds of git history  ->  Answer
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from lineage.attestation import records_of
from lineage.chain import downstream
from lineage.checkout import checked_out
from lineage.documents import DEDUP, EXTRACT, TOKENIZE, Place
from lineage.history import Build, Stage, all_builds, build_at, builds, is_shallow
from lineage.objects import Objects, objects
from lineage.sources import renamed, source_names
from lineage.steps import Plan, Times, drawn, seen, target_tokens, times_seen
from lineage.takedown.search import NO_TOKENS, Fate, Search, Tokens, other_ids
from lineage.training import PRETRAIN, check_tokens, plan_of
from stages.params import Refusal, parse_params
from stages.pretrain.params import PretrainParams
from stages.takedown import RULE, Entry, Takedown

MODEL = "models/base"
FATE_UNKNOWN = "unknown"
T = TypeVar("T")
FEW = 1000  # documents of which it is still quick to find the first step that saw one


@dataclass(frozen=True)
class InSource:
    """What a source of a build has of the documents."""

    name: str
    fates: dict[str, int]  # documents by what became of them
    tokens: int
    of: int  # all tokens of the source


@dataclass(frozen=True)
class InCheckpoint:
    """How much of a checkpoint's training was on the documents."""

    step: int | None  # None: the base model of a build that has none of them
    samples: int  # training windows with a token of them in it
    tokens: int  # target tokens of them
    of: int | None  # all target tokens

    @property
    def is_clean(self) -> bool:
        """Whether none of them was seen."""
        return not self.samples


@dataclass(frozen=True)
class InBuild:
    """What a build has of the documents."""

    build: Build
    sources: tuple[InSource, ...] = ()
    checkpoints: tuple[InCheckpoint, ...] = ()  # by step, the base model last
    first_step: int | None = None  # that saw one of them; None if none did, or it isn't known
    unknown: tuple[str, ...] = ()  # what couldn't be read, each in a sentence

    @property
    def status(self) -> str:
        """Has: documents of it in training. Clean: certainly none. Unknown: not all could be read."""
        if any(source.tokens for source in self.sources):
            return "has"
        return "unknown" if self.unknown else "clean"


@dataclass(frozen=True)
class Copy:
    """A document that isn't asked for, but is a duplicate of one that is."""

    id: str
    source: str
    origin: str
    similarity: float | None  # of the one that was kept and the one that wasn't; 1 for equal texts
    synthetic: bool  # whether a language model wrote it


@dataclass(frozen=True)
class Cost:
    """What a build without the documents runs again, at most; no stage if the one that is here is without them."""

    stages: dict[str, float | None]  # seconds that it took last time; None if there is no record
    tokens: int  # to train on again


@dataclass(frozen=True)
class Answer:
    """All that is known."""

    question: Takedown  # with the ids that the documents have in sources with other names
    documents: int
    builds: tuple[InBuild, ...]  # the newest first
    copies: tuple[Copy, ...]
    unmatched: tuple[Entry, ...]  # ids that no build that could be read has
    cost: Cost | None
    is_shallow: bool

    @property
    def newest_clean(self) -> tuple[InBuild, InCheckpoint] | None:
        """The newest checkpoint that saw none of the documents, and its build."""
        return next(
            (
                (found, checkpoint)
                for found in self.builds
                if not found.unknown
                for checkpoint in reversed(found.checkpoints)
                if checkpoint.is_clean
            ),
            None,
        )


def answer(root: Path, question: Takedown, with_copies: bool = False) -> Answer:
    """The answer to `question`, of every build that `root` knows; `with_copies`, also of the documents' duplicates."""
    known = all_builds(root, builds(root))
    with objects(root) as shelf:
        search = asked(shelf, question, known)
        copies = tuple(_copies(search, known))
        if with_copies and copies:
            also = (Entry(id=copy.id, reason="a copy") for copy in copies)
            search = asked(shelf, Takedown((*search.question.entries, *also)), known)
            copies = tuple(_copies(search, known))
        found = in_builds(root, search, known)
    named = set(question.named("id")) - set(search.places)
    return Answer(
        question=search.question,
        documents=len(search.places),
        builds=found,
        copies=copies,
        unmatched=tuple(entry for entry in question.entries if entry.id in named),
        cost=cost(root, found),
        is_shallow=is_shallow(root),
    )


def asked(shelf: Objects, question: Takedown, known: list[Build]) -> Search:
    """All documents of all builds that `question` asks for, found; renamed sources included."""
    search = Search(shelf, question)
    _look(search, known)
    others = other_ids(list(search.places.values()), renamed(known))
    more = tuple(Entry(id=id) for id in others if id not in search.places)
    if more:
        search = Search(shelf, Takedown((*question.entries, *more)))
        _look(search, known)
    return search


def _look(search: Search, known: list[Build]) -> None:
    for build in known:
        for source in source_names(build):
            try:
                search.documents(build, source)
            except Refusal:
                continue  # said of the build that has it


def in_builds(root: Path, search: Search, known: list[Build]) -> tuple[InBuild, ...]:
    """What each build has; builds with the same files are looked at once."""
    seen_before: dict[tuple[str, ...], InBuild] = {}
    found = []
    for build in known:
        key = _files(build)
        if key not in seen_before:
            seen_before[key] = in_build(root, search, build)
        found.append(replace(seen_before[key], build=build))
    return tuple(found)


def _files(build: Build) -> tuple[str, ...]:
    kinds = (EXTRACT, DEDUP, TOKENIZE, "models/checkpoints")
    trained = build.stages.get(PRETRAIN)
    digests = [f"{path} {out.md5}" for path, out in build.outs.items() if path.startswith(kinds)]
    return (*digests, repr(trained.params if trained else None))


def in_build(root: Path, search: Search, build: Build) -> InBuild:
    """What `build` has, and what couldn't be read of it."""
    unknown: dict[str, None] = {}

    def known(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except Refusal as refusal:
            unknown[str(refusal)] = None
            return otherwise

    nothing: tuple[tuple[InCheckpoint, ...], int | None] = (), None
    fates = known(partial(search.fates, build), dict[str, Fate]())
    sources, tokens = [], {}
    for name in source_names(build):
        found = known(partial(search.documents, build, name), list[Place]())
        counts = Counter(fates[place.id].fate if place.id in fates else FATE_UNKNOWN for place in found)
        own = known(partial(search.tokens, build, name), NO_TOKENS)
        if own.count:
            tokens[name] = own
        if counts or own.count:
            sources.append(InSource(name, dict(counts), own.count, own.of))
    checkpoints, first = known(partial(_checkpoints, root, build, tokens), nothing)
    return InBuild(build, tuple(sources), checkpoints, first, tuple(unknown))


def _checkpoints(root: Path, build: Build, tokens: dict[str, Tokens]) -> tuple[tuple[InCheckpoint, ...], int | None]:
    """What each checkpoint of `build` saw of `tokens`, and the first step that saw some."""
    if MODEL not in build.outs or PRETRAIN not in build.stages:
        return (), None
    check_tokens(root, build, build.stages[PRETRAIN])  # else the tokens say nothing of the model
    if not tokens:
        return (InCheckpoint(None, 0, 0, None),), None
    return _trained(root, build, tokens)


def _trained(root: Path, build: Build, tokens: dict[str, Tokens]) -> tuple[tuple[InCheckpoint, ...], int | None]:
    """What each checkpoint of `build` saw of `tokens`, and the first step that saw some."""
    with checked_out(root, build, [TOKENIZE]) as folder:
        plan = plan_of(root, build, folder)
    each = {source: np.zeros(size, np.int64) for source, size in plan.order.windows.items()}
    checkpoints, begin = [], 0
    for step in plan.checkpoints:
        end = step * plan.samples_per_step
        each = {source: each[source] + more.each for source, more in drawn(plan.order, begin, end).items()}
        begin = end
        checkpoints.append(_checkpoint(plan, step, {source: Times(own) for source, own in each.items()}, tokens))
    return tuple(checkpoints), _first_step(plan, tokens)


def _checkpoint(plan: Plan, step: int, times: dict[str, Times], tokens: dict[str, Tokens]) -> InCheckpoint:
    samples = targets = 0
    for source, own in tokens.items():
        if source in times:
            begins, ends = own.begins.to_numpy(), own.ends.to_numpy()
            samples += int(times_seen(plan, times[source], begins, ends).sum())
            targets += int(target_tokens(plan, times[source], begins, ends).sum())
    return InCheckpoint(step, samples, targets, step * plan.samples_per_step * plan.length)


def _first_step(plan: Plan, tokens: dict[str, Tokens]) -> int | None:
    """The first step that saw any of `tokens`; None if none did, or they are of too many documents."""
    if sum(len(own.begins) for own in tokens.values()) > FEW:
        return None
    numbers = [
        int(found.numbers[0])
        for source, own in tokens.items()
        if source in plan.order.windows
        for begin, end in zip(own.begins, own.ends, strict=True)
        if len((found := seen(plan.order, source, plan.windows_of(source, begin, end), plan.samples)).numbers)
    ]
    return plan.step_of(min(numbers)) if numbers else None


def _copies(search: Search, known: list[Build]) -> Iterator[Copy]:
    """The duplicates of the documents found, in any build, but those that the newest with them has taken down."""
    found: dict[str, Copy | None] = {}
    for build in known:
        try:
            fates = search.fates(build)
        except Refusal:
            continue  # said of the build that has it
        similarities = {fate.duplicate_of: fate.similarity for fate in fates.values()}
        for id, fate in fates.items():
            if id not in search.places and id not in found:
                similarity = fate.similarity or similarities.get(id)
                copy = Copy(id, fate.source, fate.origin, similarity, fate.synthetic)
                found[id] = copy if fate.fate != RULE else None
    yield from (copy for copy in found.values() if copy)


def cost(root: Path, found: tuple[InBuild, ...]) -> Cost | None:
    """What a build without the documents runs again, at most; None if nothing is built here.

    Every filter reads the list; what follows them runs again if one of them decides otherwise.
    """
    try:
        here = build_at(root)
    except Refusal:
        return None
    own = next((each for each in found if each.build.lock == here.lock), None)
    fates = {fate for source in own.sources for fate in source.fates} if own else set()
    if fates == {RULE}:
        return Cost({}, 0)
    filters = [name for name, stage in here.stages.items() if stage.kind == "filter"]
    names = downstream(here.stages.values(), filters) if fates else filters
    records = records_of(root, here)
    took = {name: _seconds(record.began, record.finished) for name, record in records.items()}
    tokens = _budget(here.stages[PRETRAIN]) if PRETRAIN in names else 0
    return Cost({name: took.get(name) for name in names}, tokens)


def _seconds(began: str | None, finished: str | None) -> float | None:
    if not began or not finished:
        return None
    return (datetime.fromisoformat(finished) - datetime.fromisoformat(began)).total_seconds()


def _budget(stage: Stage) -> int:
    params = parse_params(PretrainParams, stage.params.get(PRETRAIN), f"dvc.lock: {PRETRAIN}")
    return params.steps * params.tokens_per_step
