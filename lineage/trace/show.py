"""`pedigree trace`: the documents of steps, or the steps of a document, for people or as JSON."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lineage.checkout import checked_out
from lineage.documents import Place
from lineage.history import Build, build_at
from lineage.plain import plain
from lineage.steps import Plan, seen
from lineage.terminal import UNKNOWN, console, marked
from lineage.trace.content import TOP, Content, content_of, named, parts, steps_asked
from lineage.training import plan_of
from lineage.why.answer import WANTED, not_found
from lineage.why.query import located
from lineage.why.show import line, outcome
from lineage.why.way import Way, way_of
from stages.params import Refusal

SHOWN_SAMPLES = 20


@dataclass(frozen=True)
class Visit:
    """A sample in which a document was seen."""

    sample: int
    step: int
    epoch: int  # from 1
    window: int
    before: str  # the last checkpoint that hasn't this step
    after: str  # the first that has it


def print_steps(
    step: int | None, steps: str | None, checkpoint: str | None, at: str | None, as_json: bool, root: Path = Path()
) -> None:
    """Write to stdout what some steps of the build at revision `at` were trained on.

    Raises:
        Refusal: if there are no such steps, or the files of that build are gone.
    """
    build = build_at(root, at)
    with checked_out(root, build, WANTED) as folder:
        plan = plan_of(root, build, folder)
        first, last = steps_asked(plan, step, steps, checkpoint)
        content = content_of(folder, plan, first, last)
        if as_json:
            write_json(build, folder, plan, content)
        else:
            show_content(build, plan, content, console())


def print_document(query: str, at: str | None, as_json: bool, root: Path = Path()) -> None:
    """Write to stdout when the build at revision `at` was trained on the document `query`.

    Raises:
        Refusal: if it isn't one document, or the files of that build are gone.
    """
    build = build_at(root, at)
    with checked_out(root, build, WANTED) as folder:
        place = one(root, build, folder, query)
        plan = plan_of(root, build, folder)
        way = way_of(root, build, folder, place, plan)
        visits = visits_of(plan, way)
    if as_json:
        print(json.dumps({"build": build.title, "commit": build.commit, **asdict(place), "split": way.split,
                          "synthetic": is_synthetic(way), "visits": [asdict(visit) for visit in visits]},
                         indent=2, ensure_ascii=False))  # fmt: skip
    else:
        show_visits(build, plan, way, visits, console())


def one(root: Path, build: Build, folder: Path, query: str) -> Place:
    """The document that `query` names.

    Raises:
        Refusal: if there is none, or there are several.
    """
    places = located(folder, query)
    if not places:
        raise Refusal(not_found(root, build, folder, query))
    if len(places) > 1:
        ids = ", ".join(place.id for place in places[:3])
        raise Refusal(f"{len(places)} documents of {build.title} are named by {query!r} ({ids}, …); give one id")
    return places[0]


def visits_of(plan: Plan, way: Way) -> list[Visit]:
    """Every sample in which the document was seen, in the order of training."""
    if way.tokens is None:
        return []
    windows = plan.windows_of(way.source, way.tokens.begin, way.tokens.end)
    found = seen(plan.order, way.source, windows, plan.samples)
    columns = (found.numbers.tolist(), found.epochs.tolist(), found.windows.tolist())
    return [visit(plan, number, epoch, window) for number, epoch, window in zip(*columns, strict=True)]


def visit(plan: Plan, number: int, epoch: int, window: int) -> Visit:
    """The sample with this number, in its epoch (from 0), with the checkpoints around it."""
    step = plan.step_of(number)
    return Visit(number, step, epoch + 1, window, plan.name(plan.before(step)), plan.name(plan.after(step)))


def write_json(build: Build, folder: Path, plan: Plan, content: Content) -> None:
    """Write all of it to stdout, with every document, a token shard at a time: they may be millions."""
    head = {"build": build.title, "commit": build.commit, **asdict(content)}
    del head["top"]
    sys.stdout.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "documents": [')
    comma = ""
    for part in parts(folder, plan, content.first, content.last):
        rows = named(folder, part).write_json()[1:-1]
        sys.stdout.write(comma + rows)
        comma = ",\n"
    sys.stdout.write("]}\n")


def show_content(build: Build, plan: Plan, content: Content, out: Console) -> None:
    """Write what some steps were trained on, for people."""
    steps = (
        f"step {content.first:,}" if content.first == content.last else f"steps {content.first:,} to {content.last:,}"
    )
    begin, end = plan.samples_of(content.first, content.last)
    out.print(
        f"In the build of {plain(build.title)}, {steps} of {plan.steps:,}: {end - begin:,} samples, "
        f"{content.tokens:,} {'target ' if plan.causal else ''}tokens; "
        f"in checkpoint {plan.name(plan.after(content.last))}"
    )
    out.print(shares(content))
    out.print(top(content))
    documents = sum(share.documents for share in content.shares)
    if documents > TOP:
        out.print(f"{documents - TOP:,} more documents: --json has all of them")


def shares(content: Content) -> Table:
    """Sources and licences."""
    table = Table(title="\nSources and licences", title_justify="left", title_style="bold")
    for name in ("source", "licence", "documents", "tokens", "share"):
        table.add_column(name, justify="left" if name in ("source", "licence") else "right")
    for share in content.shares:
        part = share.tokens / max(content.tokens, 1)
        licence = plain(share.license) if share.license else UNKNOWN
        table.add_row(
            marked(plain(share.source), share.synthetic),
            licence,
            f"{share.documents:,}",
            f"{share.tokens:,}",
            f"{part:.1%}",
        )
    return table


def top(content: Content) -> Table:
    """The documents with most tokens."""
    table = Table(title="\nDocuments with most tokens", title_justify="left", title_style="bold")
    for name in ("id", "document", "tokens", "share"):
        table.add_column(name, justify="left" if name in ("id", "document") else "right", overflow="fold")
    for each in content.top:
        part = each.tokens / max(content.tokens, 1)
        source = marked(plain(each.source), each.synthetic)
        table.add_row(each.id, f"{source}: {plain(each.origin)}", f"{each.tokens:,}", f"{part:.2%}")
    return table


def show_visits(build: Build, plan: Plan, way: Way, visits: list[Visit], out: Console) -> None:
    """Write when a document was seen, for people."""
    out.print(f"In the build of {plain(build.title)}:")
    source = marked(plain(way.source), is_synthetic(way))
    out.print(f"\n{source}: {plain(way.origin)}", style="bold", soft_wrap=True)
    line(out, "id", way.id)
    for name, value in outcome(way):
        line(out, name, value)
    if not visits:
        return
    out.print(epochs(plan, visits))
    out.print(samples(visits[:SHOWN_SAMPLES]))
    if len(visits) > SHOWN_SAMPLES:
        out.print(f"{len(visits) - SHOWN_SAMPLES:,} more samples: --json has all of them")


def is_synthetic(way: Way) -> bool:
    """Whether a language model wrote the document."""
    return way.meta.get("synthetic") is True


def epochs(plan: Plan, visits: list[Visit]) -> Table:
    """For each epoch: in how many samples, from which step to which, between which checkpoints."""
    table = Table(title="\nEpochs of its source", title_justify="left", title_style="bold")
    for name in ("epoch", "samples", "steps", "checkpoint before", "checkpoint after"):
        table.add_column(name, justify="right" if name in ("epoch", "samples") else "left")
    for epoch in sorted({visit.epoch for visit in visits}):
        own = [visit for visit in visits if visit.epoch == epoch]
        steps = f"{own[0].step:,} to {own[-1].step:,}"
        table.add_row(f"{epoch:,}", f"{len(own):,}", steps, own[0].before, own[-1].after)
    return table


def samples(visits: Iterable[Visit]) -> Table:
    """One row for each sample."""
    table = Table(title="\nSamples", title_justify="left", title_style="bold")
    for name in ("step", "epoch", "sample", "window", "checkpoint before", "checkpoint after"):
        table.add_column(name, justify="left" if name.startswith("checkpoint") else "right")
    for each in visits:
        numbers: list[Any] = [each.step, each.epoch, each.sample, each.window]
        table.add_row(*(f"{value:,}" for value in numbers), each.before, each.after)
    return table
