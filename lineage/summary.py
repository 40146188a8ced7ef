"""What a build made, out of the manifests and metrics that it left behind.

data/*/SOURCE/manifest.json, metrics/*.json, models/samples.json  ->  a page for people, or JSON
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from lineage.builds import beside_commit
from lineage.history import LOCK
from lineage.plain import plain
from lineage.terminal import UNKNOWN, console, marked
from stages.documents import MANIFEST
from stages.params import Refusal, source_names

PLACES = {
    "documents": "data/extract",
    "decisions on them": "data/filter and data/dedup",
    "token shards": "data/tokenize",
    "tokenizer": "models/tokenizer",
    "model": "models/base",
    "checkpoints": "models/checkpoints",
    "metrics": "metrics",
    "curves": "plots",
    "digests": "dvc.lock",
}
REFERENCES = {
    "model": "this model",
    "untrained": "the same, untrained",
    "order2": "order-2 bytes",
    "xz": "xz -9e",
    "xz_primed": "xz -9e, primed with training text",
}
MAIN_RULES = 3


@dataclass(frozen=True)
class Source:
    """Where the documents of one source went. What isn't built yet is None."""

    name: str
    read: int
    synthetic: bool = False  # whether a language model wrote them
    unextracted: dict[str, int] = field(default_factory=dict)  # by rule of extract
    filtered: dict[str, int] | None = None  # by rule of filter
    duplicates: dict[str, int] | None = None  # by rule of dedup
    held_out: int | None = None
    trained: int | None = None
    tokens: int | None = None

    @property
    def unaccounted(self) -> int:
        """Documents that came in and have no fate: 0 in a finished build."""
        gone = sum(sum(rules.values()) for rules in (self.unextracted, self.filtered, self.duplicates) if rules)
        return self.read - gone - (self.held_out or 0) - (self.trained or 0)


@dataclass(frozen=True)
class Summary:
    """All that is known of the build in one folder; what isn't built yet is empty."""

    sources: tuple[Source, ...]
    pretrain: dict[str, Any]
    evaluate: dict[str, Any]
    samples: list[dict[str, Any]]
    places: dict[str, str]
    grade: str = ""  # how the build compares with the committed one


def read_summary(root: Path = Path()) -> Summary:
    """What the build in `root` made.

    Raises:
        Refusal: if nothing is built yet, or a file isn't what a stage writes.
    """
    names = source_names(root / "params.yaml")
    sources = tuple(source for name in names if (source := read_source(root / "data", name)))
    if not sources:
        raise Refusal("nothing is built here yet; run `dvc repro` or `pedigree run`")
    return Summary(
        sources,
        pretrain=json_at(root / "metrics/pretrain.json") or {},
        evaluate=json_at(root / "metrics/evaluate.json") or {},
        samples=json_at(root / "models/samples.json") or [],
        places={what: place for what, place in PLACES.items() if (root / place.split()[0]).exists()},
        grade=beside_commit(root) if (root / LOCK).exists() else "",
    )


def read_source(data: Path, name: str) -> Source | None:
    """Where the documents of source `name` went, as far as it is built; None if it isn't extracted."""
    stages = ("extract", "filter", "dedup", "tokenize")
    extract, kept, dedup, tokens = (_counts(data / stage / name) for stage in stages)
    if not extract:
        return None
    return Source(
        name,
        read=extract["read"],
        synthetic=bool((json_at(data / "download" / name / MANIFEST) or {}).get("about", {}).get("synthetic")),
        unextracted=extract["dropped"],
        filtered=kept.get("dropped"),
        duplicates=dedup.get("dropped"),
        held_out=dedup.get("held_out"),
        trained=dedup.get("train"),
        tokens=tokens.get("tokens"),
    )


def to_json(summary: Summary) -> dict[str, Any]:
    """The summary as plain values, with what can be computed from it."""
    values = asdict(summary)
    for source, entry in zip(summary.sources, values["sources"], strict=True):
        entry["unaccounted"] = source.unaccounted
        entry["share"] = share(source, summary)
    return values


def share(source: Source, summary: Summary) -> float | None:
    """The part of all tokens on disk that is this source's."""
    total = sum(each.tokens or 0 for each in summary.sources)
    return source.tokens / total if total and source.tokens is not None else None


def print_summary(as_json: bool = False, root: Path = Path()) -> None:
    """Write the summary of the build in `root` to stdout.

    Raises:
        Refusal: as read_summary.
    """
    summary = read_summary(root)
    if as_json:
        print(json.dumps(to_json(summary), indent=2, ensure_ascii=False))
        return
    show(summary, console())


def show(summary: Summary, console: Console) -> None:
    """Write `summary` to `console`, for people."""
    console.print(_documents(summary))
    for source in summary.sources:
        if source.trained is not None and source.unaccounted:
            console.print(f"{source.name}: {source.unaccounted} documents have no fate; its stages are out of step")
    console.print("\nWhy: the rules that dropped most", style="bold")
    for source in summary.sources:
        console.print(f"  {plain(source.name):<10} {_main_rules(source)}", soft_wrap=True)
    if summary.pretrain:
        console.print(_model(summary.pretrain))
    if summary.evaluate:
        console.print(_bits_per_byte(summary.evaluate))
        if summary.evaluate.get("tasks"):
            console.print(_tasks(summary.evaluate))
        if summary.evaluate.get("probe"):
            console.print(_probe(summary.evaluate["probe"]))
    # Greedy ones end in a loop soon; they are in models/samples.json.
    for sample in [each for each in summary.samples if each["temperature"]] or summary.samples:
        console.print(f"\nSample: {plain(sample['prompt'])!r} at temperature {sample['temperature']}", style="bold")
        console.print(Padding(plain(sample["text"]), (0, 0, 0, 2)))
    console.print("\nWhere it lies", style="bold")
    for what, place in summary.places.items():
        console.print(f"  {what:<18} {place}")
    if summary.grade:
        console.print(f"\n{summary.grade}")


def _documents(summary: Summary) -> Table:
    columns = ["source", "read", "not extracted", "filtered", "exact", "near", "held out", "trained"]
    table = Table(title="Documents: where they went", title_justify="left", title_style="bold", show_footer=True)
    rows = [_row(source, share(source, summary)) for source in summary.sources]
    totals = ["all", *(_total(column) for column in list(zip(*rows, strict=True))[1:])]
    for name, total in zip([*columns, "tokens", "share"], totals, strict=True):
        table.add_column(name, footer=_shown(total), justify="left" if name == "source" else "right")
    for row in rows:
        table.add_row(*map(_shown, row))
    return table


def _row(source: Source, part: float | None) -> list[Any]:
    duplicates = source.duplicates
    exact = None if duplicates is None else sum(count for rule, count in duplicates.items() if "exact" in rule)
    near = None if duplicates is None or exact is None else sum(duplicates.values()) - exact
    return [
        marked(plain(source.name), source.synthetic),
        source.read,
        sum(source.unextracted.values()),
        None if source.filtered is None else sum(source.filtered.values()),
        exact,
        near,
        source.held_out,
        source.trained,
        source.tokens,
        part,
    ]


def _main_rules(source: Source) -> str:
    dropped = Counter(source.unextracted) + Counter(source.filtered or {}) + Counter(source.duplicates or {})
    most = (f"{plain(rule)} {count:,}" for rule, count in dropped.most_common(MAIN_RULES))
    return ", ".join(most) or "nothing was dropped"


def _total(column: tuple[Any, ...]) -> Any:
    numbers = [value for value in column if isinstance(value, int | float)]
    return sum(numbers) if numbers else ""


def _shown(value: Any) -> str:
    match value:
        case None:
            return UNKNOWN
        case float():
            return f"{value:.1%}"
        case int():
            return f"{value:,}"
        case _:
            return str(value)


def _model(metrics: dict[str, Any]) -> str:
    epochs = ", ".join(f"{plain(name)} {count:.1f}" for name, count in metrics.get("epochs", {}).items())
    return (
        f"\nModel: {metrics['parameters']:,} parameters, trained on {metrics['tokens']:,} tokens in "
        f"{metrics['steps']:,} steps to a loss of {metrics['loss']:.3f} nats per token"
        + (f"\nEpochs of each source: {epochs}" if epochs else "")
    )


def _bits_per_byte(metrics: dict[str, Any]) -> Table:
    names = [name for name in REFERENCES if name in metrics["bits_per_byte"]]
    table = Table(title="\nBits per byte on held-out text (less is better)", title_justify="left", title_style="bold")
    for column in ("source", REFERENCES["model"], "95% interval", *(REFERENCES[name] for name in names[1:])):
        table.add_column(column, justify="left" if column == "source" else "right")
    sure = metrics.get("intervals", {"all": None, "sources": {}})
    rows = [(plain(source), values, sure["sources"].get(source)) for source, values in metrics["sources"].items()]
    for title, values, bounds in [*rows, ("all", metrics["bits_per_byte"], sure["all"])]:
        if title == "all":
            table.add_section()
        model, *others = (_bits(values.get(name)) for name in names)
        table.add_row(title, model, _interval(bounds), *others)
    return table


def _tasks(metrics: dict[str, Any]) -> Table:
    table = Table(title="\nTasks (0 above guessing is guessing)", title_justify="left", title_style="bold")
    for column in ("task", "items", "score", "95% interval", "above guessing", "clean", "contaminated"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, task in metrics["tasks"].items():
        fates = metrics.get("contamination", {}).get(name, {})
        apart = (_of_items(fates.get(fate, {})) for fate in ("clean", "contaminated"))
        score = (f"{task['n']:,}", _bits(task["value"]), _interval(task), _bits(task.get("centred")))
        table.add_row(plain(name), *score, *apart)
    if mean := metrics.get("task_mean"):
        table.add_section()
        table.add_row("mean", "", "", "", _bits(mean["value"]), "", "")
    return table


def _of_items(score: dict[str, Any]) -> str:
    return f"{score['value']:.3f} of {score['n']:,}" if "value" in score else UNKNOWN


def _probe(probe: dict[str, Any]) -> str:
    last = {name: each["accuracy"][-1] for name, each in probe["models"].items()}
    base, untrained = last.get("base"), last.get("untrained")
    return (
        f"\nProbe: after {probe['steps'][-1]} steps of fine-tuning, {_bits(base)} of {probe['n']:,} texts are labelled "
        f"right; an untrained twin comes to {_bits(untrained)}"
    )


def _bits(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"


def _interval(bounds: dict[str, float] | None) -> str:
    return UNKNOWN if bounds is None else f"{bounds['low']:.3f} to {bounds['high']:.3f}"


def _counts(folder: Path) -> dict[str, Any]:
    """What the stage counted; nothing if it isn't built."""
    return dict((json_at(folder / "manifest.json") or {"counts": {}})["counts"])


def json_at(path: Path) -> Any:
    """What the JSON file at `path` holds; None if it isn't here.

    Raises:
        Refusal: if it isn't JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Refusal(f"{path} is not JSON ({error}); remove it and run `dvc repro` to make it again") from None
