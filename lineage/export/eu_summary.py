"""A draft of the public summary of training content that Article 53(1)(d) of Regulation (EU) 2024/1689 asks for.

Facts  ->  Markdown

Its parts are those of the AI Office's template (July 2025, issued again in December 2025 as C(2025) 8311), in words of
our own. What the build's records say is filled in; the rest is left to the provider. Nothing here says that a model
complies with anything.
"""

import math
from typing import Any

from lineage.export.dataset_card import counted, origins
from lineage.export.facts import Facts, by
from lineage.export.markdown import line, paragraph, share, table
from stages.takedown import RULE as TAKEDOWN

OPTED_OUT = "opted_out"  # the rule of stages/extract/web.py
FILL = "unknown: to be filled by the provider"
# The template's ranges for text, in tokens: below the first, up to the second, above it.
BRACKETS = (10**9, 10**13)
GENERAL_PURPOSE_FLOPS = 1e23  # the Commission's guidelines of July 2025: an indication of a general-purpose model
SYSTEMIC_FLOPS = 1e25  # Article 51(2): presumed to have high-impact capabilities
LARGE_SHARE = 0.03  # of all public data sets, from which on the template asks for one by name
DOMAIN_SHARE, SMALL_DOMAIN_SHARE, SMALL_DOMAINS = 0.10, 0.05, 1000


def as_markdown(facts: Facts) -> str:
    """The draft."""
    sections = [
        head(facts), provider(), model(facts), modality(facts), public_data(facts), private_data(), crawled(facts),
        user_data(), synthetic(facts), other(), opt_outs(facts), illegal(facts),
        processing(facts), compute(facts), UNSURE,
    ]  # fmt: skip
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def head(facts: Facts) -> list[str]:
    """What this is, and of which build."""
    return [
        "# Public summary of training content: draft", "",
        *paragraph(
            "Filled from the records of one build, for the provider to complete and to check against the AI Office's "
            "template. It is no legal advice, and no claim that a duty applies or is met."
        ), "",
        *table(("", ""), [
            ("version of this summary", FILL), ("date of the last update", FILL),
            ("build", f"dvc.lock with sha256 {facts.digest}"), ("commit", facts.commit),
        ]),
    ]  # fmt: skip


def provider() -> list[str]:
    """Section 1.1."""
    rows = [("name and contact of the provider", FILL), ("authorised representative in the Union", FILL)]
    return ["## 1. General information", "", "### 1.1 Provider", "", *table(("", ""), rows)]


def model(facts: Facts) -> list[str]:
    """Section 1.2."""
    name = f"base@v{facts.version}" if facts.version else FILL
    rows = [
        ("name and version of the model", name),
        ("parameters", facts.pretrain.get("parameters")),
        ("model that it was made from", "none: this build trains from random weights"),
        ("date of placing on the Union's market", FILL),
    ]
    return ["### 1.2 Model", "", *table(("", ""), rows)]


def modality(facts: Facts) -> list[str]:
    """Section 1.3."""
    tokens = training_tokens(facts)
    dates = facts.tally.filter(facts.tally["trained"])["date"].drop_nulls()
    ended = sorted(
        record.finished for name, record in facts.records.items() if name.startswith("download@") and record.finished
    )
    rows = [
        ("modalities", "text"),
        ("size of the training data", bracket(tokens)),
        ("tokens of the training data, by this model's own tokenizer", tokens),
        ("tokens that the model was trained on, repetitions included", facts.pretrain.get("tokens")),
        ("kinds of content", FILL),
        ("latest date of acquisition", ended[-1] if ended else FILL),
        ("latest date that a document states", dates.max() if len(dates) else None),
        ("trained on new data after that", "no: a build is trained once, on its sources as they were fetched"),
        ("other characteristics", FILL),
    ]
    return [
        "### 1.3 Modalities, size and characteristics", "", *table(("", ""), rows), "",
        "Languages of what was trained on:", "", *counted(facts, "language", "language"),
    ]  # fmt: skip


def training_tokens(facts: Facts) -> int | None:
    """Tokens of all sources on disk; None if one isn't counted."""
    counts = [source.counts.tokens if source.counts else None for source in facts.sources]
    return None if not counts or None in counts else sum(count or 0 for count in counts)


def bracket(tokens: int | None) -> str | None:
    """The template's range of sizes."""
    if tokens is None:
        return None
    least, most = BRACKETS
    if tokens < least:
        return "less than 1 billion tokens"
    return "1 billion to 10 trillion tokens" if tokens <= most else "more than 10 trillion tokens"


def public_data(facts: Facts) -> list[str]:
    """Section 2.1, and the list of all sources, which the provider has to assign to 2.1 to 2.6."""
    total, large = training_tokens(facts), f"at least {LARGE_SHARE:.0%}"
    rows = [
        (
            source.name, ", ".join(origins(source)) or None, source.params.get("extract", {}).get("format"),
            ", ".join(str(row["license"] or "unknown") for row in by(source.tally, "license")), tokens,
            share(tokens, total), _is_large(tokens, total),
        )
        for source in facts.sources
        for tokens in [source.counts.tokens if source.counts else None]
    ]  # fmt: skip
    return [
        "## 2. List of data sources", "",
        *paragraph(
            "The sources of this build. A record knows where a source was fetched and by which digest, not whether "
            "it was public, licensed, crawled by the provider, or made by a model: assign each to one of 2.1 to 2.6."
        ), "",
        *table(("source", "fetched from", "format", "licences", "tokens", "share", large), rows), "",
        "### 2.1 Publicly available data sets", "",
        *paragraph(
            f"Used: {FILL}. For large ones (the last column above), the template asks for name, link and period of "
            "collection; for the others, for a general description."
        ),
    ]  # fmt: skip


def _is_large(tokens: int | None, total: int | None) -> bool | None:
    return None if tokens is None or not total else tokens / total >= LARGE_SHARE


def private_data() -> list[str]:
    """Section 2.2."""
    return [
        "### 2.2 Private data sets of third parties", "",
        f"- licensed by rightsholders or who acts for them: {FILL}",
        f"- got from others: {FILL}",
    ]  # fmt: skip


def crawled(facts: Facts) -> list[str]:
    """Section 2.3, with the domains that most text is from."""
    named = facts.tally.filter(facts.tally["trained"] & facts.tally["domain"].is_not_null())
    rows = by(named, "domain")
    intro = [
        "### 2.3 Data crawled from the web", "",
        "Pedigree has no crawler of its own; it reads archives that one has made.", "",
        *(f"- {field}: {FILL}" for field in (
            "crawled by the provider or for it", "names of the crawlers", "purpose and behaviour of each", "period",
        )),
        "",
    ]  # fmt: skip
    if not rows:
        return [
            *intro,
            "No document that was trained on states the address of a page, so there are no domains to list.",
        ]
    most, fewer = top(len(rows)), top(len(rows), small=True)
    return [
        *intro,
        *paragraph(
            f"Of {len(rows):,} domains (the host in a document's address), by bytes of text: the {most:,} largest, "
            f"which are {DOMAIN_SHARE:.0%}. Of a small or medium-sized enterprise the template asks for the first "
            f"{fewer:,} of them ({SMALL_DOMAIN_SHARE:.0%}, or {SMALL_DOMAINS:,} if that is less)."
        ), "",
        *table(("", "domain", "documents", "bytes of text"), [
            (number, *row.values()) for number, row in enumerate(rows[:most], start=1)
        ]),
    ]  # fmt: skip


def top(domains: int, small: bool = False) -> int:
    """How many of so many domains the template asks for; `small`: of small and medium-sized enterprises."""
    if small:
        return min(SMALL_DOMAINS, math.ceil(domains * SMALL_DOMAIN_SHARE))
    return math.ceil(domains * DOMAIN_SHARE)


def user_data() -> list[str]:
    """Section 2.4."""
    return [
        "### 2.4 Data of users",
        "",
        f"From the model's own use: {FILL}. From other services of the provider: {FILL}.",
    ]


def synthetic(facts: Facts) -> list[str]:
    """Section 2.5, with the sources that a language model wrote."""
    written = [source for source in facts.sources if source.is_synthetic]
    if not written:
        return [
            "### 2.5 Synthetic data", "",
            f"Made for this model by another one: {FILL}. No source of this build is of that kind.",
        ]  # fmt: skip
    rows = [
        (source.name, source.params["download"]["model"], counts.trained if counts else None,
         counts.tokens if counts else None, FILL)
        for source in written for counts in [source.counts]
    ]  # fmt: skip
    return [
        "### 2.5 Synthetic data", "",
        "Written for this model by another one, as sources of this build:", "",
        *table(("source", "model", "documents trained on", "tokens", "what that model was trained on"), rows),
    ]  # fmt: skip


def other() -> list[str]:
    """Section 2.6."""
    return ["### 2.6 Other sources", "", FILL]


def opt_outs(facts: Facts) -> list[str]:
    """Section 3.1."""
    named = [source.counts.filtered or {} for source in facts.sources if source.counts]
    count = sum(dropped.get(TAKEDOWN, 0) for dropped in named)
    wished = sum(source.counts.unextracted.get(OPTED_OUT, 0) for source in facts.sources if source.counts)
    return [
        "## 3. Processing of the data", "",
        "### 3.1 Reservations of rights under the text and data mining exception", "",
        f"- signatory of the code of practice: {FILL}",
        f"- measures before and during collection (robots.txt and other protocols): {FILL}",
        f"- documents of this build that were dropped because the takedown list names them: {count:,}",
        f"- pages that were left out because their publishers opt out (noai, noindex, TDM reservation): {wished:,}",
    ]  # fmt: skip


def illegal(facts: Facts) -> list[str]:
    """Section 3.2."""
    sets = sorted({name for source in facts.sources for name in source.params.get("filter") or ()})
    return [
        "### 3.2 Illegal content", "",
        *paragraph(
            f"Measures to avoid or remove it: {FILL}. The rule sets of this build are "
            f"{line(', '.join(sets) or 'none')}; none is recorded as being for that."
        ),
    ]  # fmt: skip


def processing(facts: Facts) -> list[str]:
    """Section 3.3: what was done to the data."""
    rows: list[tuple[Any, ...]] = []
    for source in facts.sources:
        counts = source.counts
        if counts:
            filtered, duplicates = counts.filtered, counts.duplicates
            gone = [None if each is None else sum(each.values()) for each in (counts.unextracted, filtered, duplicates)]
            rows.append((source.name, counts.read, *gone, counts.held_out, counts.trained))
    names = ("source", "documents read", "not extracted", "filtered", "duplicates", "held out", "trained on")
    return ["### 3.3 Other information", "", "What became of the documents:", "", *table(names, rows)]


def compute(facts: Facts) -> list[str]:
    """The estimate of the operations of training, beside the two marks."""
    flops = facts.pretrain.get("flops")
    rows = [
        ("estimate of this build", None if flops is None else f"{flops:.3e} FLOPs", None),
        (
            "indication of a general-purpose model",
            f"{GENERAL_PURPOSE_FLOPS:.0e} FLOPs",
            _times(flops, GENERAL_PURPOSE_FLOPS),
        ),
        ("presumption of systemic risk", f"{SYSTEMIC_FLOPS:.0e} FLOPs", _times(flops, SYSTEMIC_FLOPS)),
    ]
    return [
        "## Training compute", "",
        *table(("", "operations", "the estimate is"), [(*row[:2], row[2] or "") for row in rows]), "",
        *paragraph(
            "The estimate counts forward and backward passes over every token trained on (6N + "
            "12·layers·width·length for each). The model starts from random weights, so the chain of trainings that "
            "led to it has this one link. Trials that were thrown away, evaluation and the processing of data are "
            "not in it."
        ),
    ]  # fmt: skip


def _times(flops: float | None, mark: float) -> str | None:
    return None if flops is None else f"{flops / mark:.2g} times that"


UNSURE = [
    "## To be checked against the template", "",
    *paragraph(
        "The headings and fields are a reading of the template, not its words. Not certain: the exact names of "
        "fields and their order; how the template defines the size of a data set (here: tokens of the deduplicated "
        f"text, once); the share from which on a public data set counts as large ({LARGE_SHARE:.0%} here); whether a "
        "domain is the host of an address, as here, or the registered name above it; and the counts of domains."
    ),
]  # fmt: skip
