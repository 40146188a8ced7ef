"""The pages of a report: what is gathered, as HTML that no data can leave.

Build, Census, rows  ->  index.html, build.html, changes.html, documents.html

Every value is escaped (autoescape), and stripped of what could steer or reorder what is shown. A page runs no script
but ours: its security policy names our script and our style by their digests, and allows nothing else.
"""

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lineage.attestation import Record, records_of
from lineage.history import Build, build_at, is_shallow
from lineage.pictures import draw_bits_per_byte, draw_loss, read_boxes, read_curve, read_scores
from lineage.plain import plain
from lineage.report import drawings
from lineage.report.census import MOST_DOCUMENTS, Census, take
from lineage.report.changes import changes
from lineage.report.documents import DROPPED, HELD_OUT, TRAIN, UNEXTRACTED
from lineage.report.layout import Layout, laid_out, stages_of
from lineage.report.runs import Run, environments, spoken
from lineage.report.search import index
from lineage.report.versions import committed, rows
from lineage.summary import REFERENCES, json_at
from stages.documents import publish
from stages.params import Refusal

WANTED = (
    "data/extract", "data/filter", "data/dedup", "data/tokenize", "metrics/pretrain.json", "metrics/evaluate.json",
    "plots/loss.csv", "plots/checkpoints.csv", "models/samples.json",
)  # fmt: skip
PAGES = ("index", "build", "changes", "documents")
MOST_DOMAINS = 20
MOST_TEXT = 300  # characters of a name, a title, a parameter; samples are shown whole


def write_report(root: Path, folder: Path, revision: str | None = None) -> Path:
    """Write the report of the build at `revision` (default: the working tree) into `folder`; its index.html.

    Raises:
        Refusal: if nothing is built there, a file of it can't be read, or `folder` holds something else.
    """
    _refuse_strange(folder)
    build = build_at(root, revision)
    with laid_out(root, build, WANTED) as layout:
        try:
            texts = render(root, build, layout)
        except Refusal as refusal:  # people know the file by its path in the project
            raise Refusal(str(refusal).replace(f"{layout.folder}/", "")) from None
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        partial = folder / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        publish(partial, folder / name)
    return folder / "index.html"


def render(root: Path, build: Build, layout: Layout) -> dict[str, str]:
    """The text of each page of the report on `build`, whose files are laid out, by the name of its file."""
    known = committed(root, build)
    params = _params(layout)
    censuses = take(layout.folder, params)
    records = records_of(root, build)
    runs = [Run(stage, records.get(stage.name)) for stage in stages_of(build)]
    table = rows(root, build, layout.folder)
    facts = {
        "build": known,
        "row": next(row for row in table if row.is_shown),
        "rows": table,
        "intervals": [Markup(drawings.draw_interval(row, table)) for row in table],
        "is_shallow": is_shallow(root),
        "missing": layout.missing,
        "censuses": censuses,
        "runs": runs,
        "environments": environments(runs),
        "samples": _list(layout.folder / "models/samples.json"),
        "pretrain": _object(layout.folder / "metrics/pretrain.json"),
        "evaluation": _evaluation(_object(layout.folder / "metrics/evaluate.json")),
        "tasks": _tasks(_object(layout.folder / "metrics/evaluate.json")),
        "mixture": _mixture(params, censuses, _object(layout.folder / "metrics/pretrain.json")),
        "checkpoints": _checkpoints(layout.folder / "plots/checkpoints.csv"),
        "licenses": _shares(censuses, "licenses"),
        "domains": _shares(censuses, "domains")[:MOST_DOMAINS],
        "pictures": _pictures(build, layout, censuses, records),
        "changes": changes(root, table),
        "documents": _data(index(censuses)),
        "sampled": sum(len(census.sampled) for census in censuses),
        "read": sum(census.documents for census in censuses),
        "references": REFERENCES,
        "fates": {"train": TRAIN, "held_out": HELD_OUT, "dropped": DROPPED, "unextracted": UNEXTRACTED},
        "most_documents": MOST_DOCUMENTS,
    }
    environment = _environment()
    return {f"{name}.html": _page(environment, name, facts) for name in PAGES}


def _page(environment: Environment, name: str, facts: Mapping[str, Any]) -> str:
    style = _asset(environment, "style.css")
    script = _asset(environment, "search.js") if name == "documents" else ""
    scripts = digest(script) if script else "'none'"
    policy = [
        "default-src 'none'", f"style-src {digest(style)}", f"script-src {scripts}",
        "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
    ]  # fmt: skip
    page = environment.get_template(f"{name}.html")
    return page.render(facts, page=name, style=style, script=script, policy=Markup("; ".join(policy))) + "\n"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lineage.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=shown,
    )  # fmt: skip
    environment.filters |= {
        "bar": lambda count, whole: Markup(drawings.draw_bar(count.documents, whole)),
        "brief": brief, "count": count, "digits": digits,
        "figure": figure, "percent": percent,
        "spoken": spoken, "value": value_text, "given": given,
    }  # fmt: skip
    return environment


def _asset(environment: Environment, name: str) -> Markup:
    """Our style or script, as it stands in the package: it is ours, so it needs no escape."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def digest(text: str) -> str:
    """How a security policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# ---- values as text ---------------------------------------------------------------------------------------


def shown(value: Any) -> Any:
    """What a template writes for `value`: text without control characters and overrides; markup as it is."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def brief(text: Any, most: int = MOST_TEXT) -> str:
    """`text` in one line, cut after `most` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def count(number: float | None) -> str:
    """A whole number with its thousands set apart; a dash if it isn't known."""
    return "–" if number is None else f"{number:,.0f}"


def digits(number: float | None, places: int = 4) -> str:
    """A number with `places` decimals; a dash if it isn't known."""
    return "–" if number is None else f"{number:.{places}f}"


def figure(number: float | None) -> str:
    """A metric: a whole number with its thousands set apart, a very large one in powers of ten, others to 4 places."""
    if number is not None and abs(number) >= 1e12:
        return f"{number:.2e}"
    return count(number) if number is None or float(number).is_integer() else f"{number:.4f}"


def percent(part: float | None, whole: float | None) -> str:
    """`part` of `whole` in percent; a dash if one isn't known, or the whole is nothing."""
    return "–" if part is None or not whole else f"{part / whole:.1%}"


def given(share: float | str | None) -> str:
    """What a source gives to a training: its share in percent, or in words as they are; a dash if nothing."""
    return share if isinstance(share, str) else percent(share, 1)


def value_text(value: Any) -> str:
    """A parameter or a metric as text: numbers as numbers, everything else as JSON."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _data(values: Any) -> Markup:
    """`values` as JSON that can't end the element that it stands in."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    unsafe = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return Markup(re.sub("[<>&\u2028\u2029]", lambda found: unsafe[found[0]], text))


# ---- what is gathered -------------------------------------------------------------------------------------


def _mixture(params: Mapping[str, Any], censuses: Sequence[Census], metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each source of the mixture: its weight and share, what it has on disk, how often that was read.

    Where a source is given in epochs, the shares are those of what was read.
    """
    section = params.get("mixture")
    given = section if isinstance(section, dict) else {}
    weights = {name: entry for name, entry in given.items() if isinstance(entry, int | float)}
    tokens = {census.source: census.of(TRAIN).tokens for census in censuses}
    epochs = metrics.get("epochs") or {}
    read = {name: (epochs.get(name) or 0) * (tokens.get(name) or 0) for name in given}
    parts = weights if weights.keys() == given.keys() else read
    total = sum(parts.values())
    return [
        {
            "source": name,
            "weight": weights[name] if name in weights else _epochs(given[name]),
            "share": parts[name] / total if total else None,
            "tokens": tokens.get(name),
            "epochs": epochs.get(name),
        }
        for name in given
    ]


def _epochs(entry: Any) -> str | None:
    return f"{entry['epochs']} epochs" if isinstance(entry, dict) and "epochs" in entry else None


def _evaluation(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float], Mapping[str, float] | None]]:
    """A row for all sources, then one for each: bits per byte of the model and its references, and the interval."""
    total, sources = metrics.get("bits_per_byte"), metrics.get("sources") or {}
    sure = metrics.get("intervals") or {}
    intervals = sure.get("sources") or {}
    rows = [(name, scores, intervals.get(name)) for name, scores in sources.items()]
    return [("all sources", total, sure.get("all")), *rows] if total else []


def _tasks(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """A row for each task: its name, its score, and the scores on clean and contaminated items."""
    fates = metrics.get("contamination") or {}
    return [(name, score, fates.get(name, {})) for name, score in (metrics.get("tasks") or {}).items()]


def _shares(censuses: Sequence[Census], what: str) -> list[dict[str, Any]]:
    """Documents and tokens to train on by licence or by domain, over all sources: most tokens first."""
    found: dict[str, dict[str, Any]] = {}
    for census in censuses:
        for each in getattr(census, what):
            entry = found.setdefault(each.name, {"name": each.name, "documents": 0, "tokens": 0, "sources": []})
            entry["documents"] += each.documents
            entry["tokens"] += each.tokens or 0
            entry["sources"].append(census.source)
    return sorted(found.values(), key=lambda entry: (-entry["tokens"], entry["name"]))


def _pictures(
    build: Build, layout: Layout, censuses: Sequence[Census], records: Mapping[str, Record]
) -> dict[str, Markup | None]:
    """The drawings of the build page; None where a file that one is made of isn't here."""
    stages = layout.folder / "dvc.yaml"
    boxes = read_boxes(stages.read_text(encoding="utf-8")) if stages.is_file() else []
    names = [census.source for census in censuses]
    loss, scores = layout.folder / "plots/loss.csv", layout.folder / "metrics/evaluate.json"
    steps = _checkpoints(layout.folder / "plots/checkpoints.csv")
    return {
        "stages": Markup(drawings.draw_stages(build, boxes, names, records)) if boxes else None,
        "funnel": Markup(drawings.draw_funnel(censuses)) if censuses else None,
        "spreads": Markup(
            "\n".join(drawings.draw_spread(each.source, spread) for each in censuses for spread in each.spreads)
        ),
        "loss": Markup(draw_loss(read_curve(loss))) if loss.is_file() else None,
        "bits_per_byte": Markup(draw_bits_per_byte(*read_scores(scores))) if scores.is_file() else None,
        "checkpoints": Markup(drawings.draw_checkpoints(steps)) if steps else None,
    }


def _refuse_strange(folder: Path) -> None:
    """Refuse to write among files that are no report's."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.is_file() or names - {f"{page}.html" for page in PAGES} - {f".{page}.html.partial" for page in PAGES}:
        raise Refusal(f"--out {folder} holds something else than a report; name a new or an empty folder")


def _params(layout: Layout) -> dict[str, Any]:
    path = layout.folder / "params.yaml"
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, yaml.YAMLError) as error:
        raise Refusal(f"params.yaml of the build can't be read ({type(error).__name__}); restore it from git") from None
    if not isinstance(params, dict) or not isinstance(params.get("sources") or {}, dict):
        raise Refusal("params.yaml of the build isn't a mapping with sources; restore it from git")
    return params


def _object(path: Path) -> dict[str, Any]:
    loaded = json_at(path)
    return loaded if isinstance(loaded, dict) else {}


def _list(path: Path) -> list[dict[str, Any]]:
    loaded = json_at(path)
    return [each for each in loaded if isinstance(each, dict)] if isinstance(loaded, list) else []


def _checkpoints(path: Path) -> list[tuple[float, float]]:
    """Step and bits per byte of each checkpoint in a CSV file; none if it isn't here."""
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return [(float(line["step"]), float(line["bits_per_byte"])) for line in lines]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(f"{path} is not a table of steps and bits per byte ({error!r}); run `dvc repro`") from None
