"""The dataset card: sources, licences, languages, rules and what they dropped, as a README.md of the Hugging Face hub.

Facts  ->  Markdown, with the hub's metadata on top
"""

import re
from typing import Any

from lineage.export.facts import Facts, Source, by
from lineage.export.markdown import line, paragraph, share, table
from stages.pretrain.card import front_matter

# Licences that the hub knows by the lower-case name of their SPDX identifier; others are "other" there.
HUB_LICENSES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "gpl-2.0", "gpl-3.0",
    "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense", "odc-by", "pddl", "isc", "zlib", "wtfpl",
}  # fmt: skip
SIZES = [(10**power, size) for power, size in enumerate(
    ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B"], 3
)]  # fmt: skip
LARGEST = "100B<n<1T"
TOP_DOMAINS = 20


def as_markdown(facts: Facts) -> str:
    """The card of the documents that the build's model was trained on."""
    sections = [
        overview(facts), sources(facts), licences(facts), languages(facts), dropped(facts), held_out(facts),
        domains(facts), LIMITS,
    ]  # fmt: skip
    return front_matter(metadata(facts)) + "\n\n".join("\n".join(section) for section in sections) + "\n"


def metadata(facts: Facts) -> dict[str, Any]:
    """What the hub reads."""
    trained = facts.tally.filter(facts.tally["trained"])
    found = [str(row["license"]).lower() for row in by(trained, "license")]
    known = bool(found) and set(found) <= HUB_LICENSES
    # The hub wants natural languages; of code, the column has the programming language.
    spoken = sorted(row["language"] for row in by(trained, "language") if _is_code(row["language"]))
    return {
        "pretty_name": "Pedigree corpus",
        **({"language": spoken} if spoken else {}),
        "license": sorted(found) if known else "other",
        **({} if known else {"license_name": "by-document"}),
        "size_categories": [size_category(int(facts.tally["documents"].sum()))],
        "task_categories": ["text-generation"],
        "tags": ["pretraining", "pedigree"],
    }


def size_category(documents: int) -> str:
    """The hub's name for so many documents."""
    return next((size for limit, size in SIZES if documents < limit), LARGEST)


def _is_code(language: str | None) -> bool:
    """Whether it is an ISO 639 code, not the name of a programming language."""
    return bool(language and re.fullmatch(r"[a-z]{2,3}", language))


def overview(facts: Facts) -> list[str]:
    """What it is, and which build it is of."""
    return [
        "# The documents of a Pedigree build", "",
        *paragraph(
            f"Text of {len(facts.sources)} sources, for the training of a base language model: extracted, cleaned, "
            "filtered by rules and deduplicated. Every document that was read has a decision, with the rule that "
            "dropped it and the value that broke the rule; nothing is lost without one. The columns are described in "
            "the Croissant file (`pedigree export croissant`)."
        ), "",
        f"- build: dvc.lock with sha256 `{facts.digest}`",
        f"- commit: {facts.commit or 'unknown'}",
        f"- version: {line(facts.version)}",
    ]  # fmt: skip


def sources(facts: Facts) -> list[str]:
    """Each source with where it is from, and where its documents went."""
    total = sum(source.counts.tokens or 0 for source in facts.sources if source.counts)
    head = (
        "source",
        "from",
        "read",
        "not extracted",
        "filtered",
        "duplicates",
        "held out",
        "trained on",
        "tokens",
        "share",
    )
    return ["## Sources", "", *table(head, [_row(source, total) for source in facts.sources])]


def _row(source: Source, total: int) -> tuple[object, ...]:
    counts, origin = source.counts, ", ".join(origins(source)) or None
    if counts is None:
        return (source.name, origin, *[None] * 8)
    return (
        source.name, origin, counts.read, sum(counts.unextracted.values()), _sum(counts.filtered),
        _sum(counts.duplicates), counts.held_out, counts.trained, counts.tokens, share(counts.tokens, total),
    )  # fmt: skip


def origins(source: Source) -> list[str]:
    """Where a source is from, in short: packages by name and version, addresses."""
    written = ["synthetic"] if source.is_synthetic else []
    return [f"{package['name']} {package['version']}" for package in source.packages] + written + source.urls


def licences(facts: Facts) -> list[str]:
    """The licences of the documents that were trained on."""
    return [
        "## Licences", "",
        *paragraph(
            "As each document states it, else as params.yaml states it for its source. Of the documents that were "
            "trained on:"
        ), "", *counted(facts, "license", "licence"),
    ]  # fmt: skip


def languages(facts: Facts) -> list[str]:
    """The languages of the documents that were trained on."""
    return [
        "## Languages", "",
        "The most likely language of each document, as a classifier has it; of code, by the ending of the file's name.",
        "", *counted(facts, "language", "language"),
    ]  # fmt: skip


def counted(facts: Facts, key: str, head: str) -> list[str]:
    """The documents that were trained on, by a column of the tally."""
    rows = by(facts.tally.filter(facts.tally["trained"]), key)
    total = sum(row["bytes"] or 0 for row in rows)
    return table(
        (head, "documents", "bytes of text", "share of bytes"),
        [(row[key], row["documents"], row["bytes"], share(row["bytes"], total)) for row in rows],
    )


def dropped(facts: Facts) -> list[str]:
    """What each rule of each stage dropped."""
    rows = [
        (source.name, stage, rule, count)
        for source in facts.sources
        if (counts := source.counts)
        for stage, rules in (("extract", counts.unextracted), ("filter", counts.filtered), ("dedup", counts.duplicates))
        for rule, count in sorted((rules or {}).items(), key=lambda item: (-item[1], item[0]))
    ]
    asked = [
        f"- {line(source.name)}: {line(', '.join(source.params.get('filter') or ()) or 'none')}"
        for source in facts.sources
    ]
    return [
        "## Rules, and what they dropped", "",
        *paragraph(
            "The rule sets that each source had to pass; `docs/rules.md` defines them, params.yaml has their "
            "thresholds:"
        ), "", *asked, "", *table(("source", "stage", "rule", "documents dropped"), rows),
    ]  # fmt: skip


def held_out(facts: Facts) -> list[str]:
    """How much is kept from training, for evaluation."""
    part = (facts.params.get("dedup") or {}).get("held_out")
    counts = [
        source.counts.held_out for source in facts.sources if source.counts and source.counts.held_out is not None
    ]
    total = sum(counts) if counts else None
    return [
        "## Held out", "",
        *paragraph(
            f"{line(total)} documents are for evaluation alone (`dedup.held_out` is {line(part)}). They are split off "
            "after deduplication, so none of them has a copy among those that were trained on, as far as that found "
            "it."
        ),
    ]  # fmt: skip


def domains(facts: Facts) -> list[str]:
    """The domains that most of the text is from."""
    named = facts.tally.filter(facts.tally["trained"] & facts.tally["domain"].is_not_null())
    rows = by(named, "domain")
    if not rows:
        return ["## Domains", "", "No document that was trained on states the address of a page."]
    return [
        "## Domains", "",
        *paragraph(
            f"Of the documents that state an address, by the host in it: the {min(TOP_DOMAINS, len(rows))} with most "
            f"text, of {len(rows):,}."
        ), "",
        *table(("domain", "documents", "bytes of text"), [tuple(row.values()) for row in rows[:TOP_DOMAINS]]),
    ]  # fmt: skip


LIMITS = [
    "## What isn't known", "",
    "- Personal data: unknown. No stage looks for it, and none masks it.",
    "- Opt-outs of rightsholders: unknown. What a takedown list names is dropped by the rule `takedown`.",
    "- Whether the stated licences are true: unknown; they are as the sources have them.",
    "- Offensive, harmful or illegal content, and biases: not measured.",
    "- When the sources were collected: unknown, but for the versions and digests in params.yaml.",
]  # fmt: skip


def _sum(counts: dict[str, int] | None) -> int | None:
    return None if counts is None else sum(counts.values())
