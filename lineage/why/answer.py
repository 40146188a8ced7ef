"""What a build knows of an id, an origin, a URL or a text.

a build, a query  ->  Answer: ways of documents, input that never became one, or what is like the text
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lineage.checkout import checked_out
from lineage.documents import DEDUP, EXTRACT, FILTER, TOKENIZE, Place
from lineage.history import LOCK, Build
from lineage.plain import plain
from lineage.steps import Plan
from lineage.training import plan_of
from lineage.why.elsewhere import elsewhere
from lineage.why.query import Unreadable, located, unreadable
from lineage.why.way import Way, way_of
from stages.minhash import FingerprintParams
from stages.params import Refusal, parse_params

LONGEST_NAME = 400  # characters of an id, an origin or a URL; more is a text
ALIKE = 0.5  # a document that is as much like a text is shown whole
WANTED = (EXTRACT, FILTER, DEDUP, TOKENIZE)


@dataclass(frozen=True)
class Likeness:
    """A document that is like a pasted text."""

    id: str
    source: str
    origin: str
    similarity: float
    contained: float


@dataclass(frozen=True)
class Answer:
    """What is known of a query."""

    build: str
    commit: str | None
    query: str
    ways: list[Way] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    nearest: list[Likeness] = field(default_factory=list)
    compared: int | None = None  # documents that a text was compared with, of so many
    documents: int | None = None


def answer_of(root: Path, build: Build, query: str | None, text: str | None) -> Answer:
    """What `build` knows of `query`, or of a text.

    Raises:
        Refusal: if nothing is found.
    """
    with checked_out(root, build, WANTED) as folder:
        if text is None and query is not None and len(query) <= LONGEST_NAME and "\n" not in query:
            if answer := answer_to_name(root, build, folder, query):
                return answer
            if not any(letter.isspace() for letter in query.strip()):
                raise Refusal(not_found(root, build, folder, query))
        return answer_to_text(root, build, folder, text if text is not None else query or "")


def answer_to_name(root: Path, build: Build, folder: Path, query: str) -> Answer | None:
    """What `build` knows of an id, an origin or a URL; None if it is none."""
    places = located(folder, query)
    bad = unreadable(folder, query)
    if not places and not bad:
        return None
    return Answer(build.title, build.commit, query, ways(root, build, folder, places), bad)


def ways(root: Path, build: Build, folder: Path, places: list[Place]) -> list[Way]:
    """The way of each."""
    plan: Plan | Refusal
    try:
        plan = plan_of(root, build, folder)
    except Refusal as refusal:
        plan = refusal
    return [way_of(root, build, folder, place, plan) for place in places]


def answer_to_text(root: Path, build: Build, folder: Path, text: str) -> Answer:
    """The documents with this text, else those most like it, and the way of the best of these."""
    from lineage.why.text import exact, nearest  # what compares texts takes a second to load

    if places := exact(folder, text):
        return Answer(build.title, build.commit, "a text", ways(root, build, folder, places))
    params = parse_params(FingerprintParams, made_by(build), f"{LOCK} of {build.title}: fingerprint")
    found = nearest(folder, text, params)
    if not found.matches:
        raise Refusal(
            f"no document of {build.title} has this text, and none of the {found.compared} compared shares "
            f"{params.ngram} words in a row with it; ask with a longer piece, or by its origin"
        )
    best = [found.matches[0].place] if found.matches[0].likeness >= ALIKE else []
    alike = [
        Likeness(match.place.id, match.place.source, match.place.origin, match.similarity, match.contained)
        for match in found.matches
    ]
    return Answer(
        build.title, build.commit, "a text", ways(root, build, folder, best),
        nearest=alike, compared=found.compared, documents=found.documents,
    )  # fmt: skip


def made_by(build: Build) -> Any:
    """What `build` made its signatures with; before there was a stage fingerprint, dedup's section said so."""
    for stage in build.stages.values():
        if stage.kind == "fingerprint":
            return stage.params.get("fingerprint")
    dedup = build.stages.get("dedup")
    section = (dedup.params.get("dedup") if dedup else None) or {}
    return {name: value for name, value in section.items() if name in FingerprintParams.model_fields}


def not_found(root: Path, build: Build, folder: Path, query: str) -> str:
    """Why there is no answer, and where there may be one."""
    known = elsewhere(root, build, folder, query)
    return (
        f"no document of {build.title} has the id, origin or URL {plain(query)!r}"
        + (f"; {known}" if known else "")
        + "; a text is asked for by --text FILE"
    )
