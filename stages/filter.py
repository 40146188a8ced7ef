"""Decide by rules which documents are kept: from their signals, without their texts.

    signals of a source  ->  one decision for each document

The rules and their published thresholds are those of Gopher (Rae et al. 2021, arXiv:2112.11446,
appendix A1.1), C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2), FineWeb (Penedo et al. 2024,
arXiv:2406.17557, section 3.6) and, for code, The Stack (Kocetkov et al. 2022, arXiv:2211.15533) and
StarCoder (Li et al. 2023, arXiv:2305.06161). docs/rules.md defines the signals. What takedown.jsonl names is
dropped before any of them is asked.
"""

import argparse
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from stages.documents import (
    DECISION_SCHEMA,
    fresh_folder,
    read_shard,
    shard_name,
    shard_paths,
    write_manifest,
    write_shard,
)
from stages.params import PARAMS_FILE, Refusal, StageParams, load_params
from stages.process import map_shards, run
from stages.takedown import RULE, TAKEDOWN, Takedown, read_takedown, taken_down

DOCUMENTS = Path("data/extract")
DECISIONS = Path("data/filter")

# In the rule sets below, `min_X` and `max_X` bound the signal X, and null switches the rule off.
Count = int | None
Ratio = float | None


class LanguageRules(StageParams):
    """Languages to keep, by ISO 639 code, and how sure the classifier must be (FineWeb, section 3.3)."""

    allowed: tuple[str, ...] = Field(min_length=1, description="ISO 639 codes; for code, programming languages")
    min_score: Ratio = Field(0.65, ge=0, le=1, description="how sure the classifier must be")


class GopherRepetitionRules(StageParams):
    """How much of a document may repeat another part of it (Rae et al. 2021, table A1)."""

    max_duplicate_line_ratio: Ratio = Field(0.30, ge=0, le=1)
    max_duplicate_paragraph_ratio: Ratio = Field(0.30, ge=0, le=1)
    max_duplicate_line_character_ratio: Ratio = Field(0.20, ge=0, le=1)
    max_duplicate_paragraph_character_ratio: Ratio = Field(0.20, ge=0, le=1)
    max_top_2_gram_character_ratio: Ratio = Field(0.20, ge=0, le=1)
    max_top_3_gram_character_ratio: Ratio = Field(0.18, ge=0, le=1)
    max_top_4_gram_character_ratio: Ratio = Field(0.16, ge=0, le=1)
    max_duplicate_5_gram_character_ratio: Ratio = Field(0.15, ge=0, le=1)
    max_duplicate_6_gram_character_ratio: Ratio = Field(0.14, ge=0, le=1)
    max_duplicate_7_gram_character_ratio: Ratio = Field(0.13, ge=0, le=1)
    max_duplicate_8_gram_character_ratio: Ratio = Field(0.12, ge=0, le=1)
    max_duplicate_9_gram_character_ratio: Ratio = Field(0.11, ge=0, le=1)
    max_duplicate_10_gram_character_ratio: Ratio = Field(0.10, ge=0, le=1)


class GopherQualityRules(StageParams):
    """What prose looks like (Rae et al. 2021, A1.1). Word lengths are in characters."""

    min_words: Count = Field(50, ge=0)
    max_words: Count = Field(100_000, ge=0)
    min_mean_word_length: Ratio = Field(3.0, ge=0)
    max_mean_word_length: Ratio = Field(10.0, ge=0)
    max_hash_to_word_ratio: Ratio = Field(0.1, ge=0)
    max_ellipsis_to_word_ratio: Ratio = Field(0.1, ge=0)
    max_bullet_line_ratio: Ratio = Field(0.9, ge=0, le=1)
    max_ellipsis_line_ratio: Ratio = Field(0.3, ge=0, le=1)
    min_alphabetic_word_ratio: Ratio = Field(0.8, ge=0, le=1)
    min_stop_words: Count = Field(2, ge=0, le=8)


class C4Rules(StageParams):
    """C4's rules for whole documents (Raffel et al. 2020, section 2.2); those for lines are extract's."""

    min_sentences: Count = Field(5, ge=0)
    max_lorem_ipsum: Count = Field(0, ge=0)
    max_curly_brackets: Count = Field(0, ge=0)


class FineWebRules(StageParams):
    """FineWeb's own rules (Penedo et al. 2024, section 3.6)."""

    min_line_punct_ratio: Ratio = Field(0.12, ge=0, le=1)
    max_short_line_ratio: Ratio = Field(0.67, ge=0, le=1)
    max_char_dup_ratio: Ratio = Field(0.01, ge=0, le=1)
    max_list_ratio: Ratio = Field(0.3, ge=0)


class CodeRules(StageParams):
    """What code is not: minified, data, generated (Kocetkov et al. 2022, section 3; Li et al. 2023, section 3).

    Line lengths are in characters.
    """

    min_words: Count = Field(None, ge=0)
    max_max_line_length: Count = Field(1000, ge=0)
    max_mean_line_length: Ratio = Field(100.0, ge=0)
    min_alphanumeric_ratio: Ratio = Field(0.25, ge=0, le=1)
    max_generated_marks: Count = Field(0, ge=0)


class FilterParams(StageParams):
    """The rule sets of a source, asked in this order. An absent one is off; `{}` takes the published thresholds."""

    language: LanguageRules | None = None
    gopher_repetition: GopherRepetitionRules | None = None
    gopher_quality: GopherQualityRules | None = None
    c4: C4Rules | None = None
    fineweb: FineWebRules | None = None
    code: CodeRules | None = None


@dataclass(frozen=True)
class Rule:
    """One question: is `signal` within bounds? Its name is the key of its threshold in params.yaml."""

    name: str
    signal: str
    at_least: float | None = None
    at_most: float | None = None
    one_of: tuple[str, ...] | None = None

    @property
    def broken(self) -> pl.Expr:
        """Whether a document breaks the rule. What was not measured breaks no bound."""
        signal = pl.col(self.signal)
        if self.one_of is not None:
            return ~signal.is_in(self.one_of).fill_null(False)
        return (signal < self.at_least if self.at_least is not None else signal > self.at_most).fill_null(False)

    @property
    def value(self) -> pl.Expr:
        """What was measured; for a language, how sure the classifier was of it."""
        return pl.col("language_score" if self.one_of is not None else self.signal).cast(pl.Float64)

    @property
    def threshold(self) -> float | None:
        """The bound of the signal; none for a list of languages."""
        return self.at_least if self.at_least is not None else self.at_most


def rules(params: FilterParams) -> list[Rule]:
    """The rules in the order in which they are asked: the first one broken decides.

    `gopher_quality.min_words: 50` becomes Rule("gopher_quality.min_words", "words", at_least=50).
    """
    found = []
    for group in FilterParams.model_fields:
        thresholds = getattr(params, group)
        for key in type(thresholds).model_fields if thresholds is not None else ():
            threshold = getattr(thresholds, key)
            if threshold is not None:
                found.append(rule_of(group, key, threshold))
    return found


def rule_of(group: str, key: str, threshold: Any) -> Rule:
    """The rule that `key` of the rule set `group` stands for."""
    name, signal = f"{group}.{key}", key[len("min_") :]
    if group == "language":
        if key == "allowed":
            return Rule(name, "language", one_of=threshold)
        signal = "language_score"
    if key.startswith("min_"):
        return Rule(name, signal, at_least=threshold)
    return Rule(name, signal, at_most=threshold)


def decide(signals: pl.DataFrame, rules: list[Rule]) -> pl.DataFrame:
    """One decision for each row of `signals`, in the same order, by DECISION_SCHEMA."""
    columns = {"rule": pl.String(), "value": pl.Float64(), "threshold": pl.Float64()}
    answers: dict[str, list[pl.Expr]] = {name: [pl.lit(None, dtype)] for name, dtype in columns.items()}
    for rule in reversed(rules):
        # The innermost `otherwise` is asked last, so that the first rule broken decides.
        for name, answer in (("rule", pl.lit(rule.name)), ("value", rule.value), ("threshold", pl.lit(rule.threshold))):
            answers[name].append(pl.when(rule.broken).then(answer).otherwise(answers[name][-1]))
    decided = signals.select("id", "origin", **{name: found[-1] for name, found in answers.items()})
    return complete(decided.with_columns(keep=pl.col("rule").is_null()))


def take_down(decisions: pl.DataFrame, hit: pl.Series | None) -> pl.DataFrame:
    """`decisions`, but for each document that is `hit` only that it is taken down: no rule is asked of it."""
    if hit is None:
        return decisions
    none = pl.lit(None, pl.Float64)
    answers = {"keep": pl.lit(False), "rule": pl.lit(RULE), "value": none, "threshold": none}
    return decisions.with_columns(
        pl.when(hit).then(answer).otherwise(pl.col(name)).alias(name) for name, answer in answers.items()
    )


def complete(decisions: pl.DataFrame) -> pl.DataFrame:
    """`decisions` with the columns and types of DECISION_SCHEMA; what is absent is null."""
    absent = [name for name in DECISION_SCHEMA if name not in decisions.columns]
    return decisions.with_columns(pl.lit(None).alias(name) for name in absent).select(
        pl.col(name).cast(dtype) for name, dtype in DECISION_SCHEMA.items()
    )


def read_signals(documents: Path, signals: Path, rules: list[Rule]) -> pl.DataFrame:
    """What `rules` ask of the documents in a shard, with their ids and origins. The texts stay on disk.

    Raises:
        Refusal: if the two shards aren't about the same documents.
    """
    described = read_shard(documents, ["id", "origin", "language"])
    asked = {rule.signal for rule in rules} | {"language_score" for rule in rules if rule.one_of is not None}
    measured = read_shard(signals, ["id", *sorted(asked - {"language"})])
    if not measured["id"].equals(described["id"]):
        raise Refusal(f"{signals} is not about the documents in {documents}; remove the folder and run `dvc repro`")
    return pl.concat([described, measured.drop("id")], how="horizontal")


def filter_shard(shard: tuple[Path, Path], target: Path, params: FilterParams, takedown: Takedown) -> Counter[str]:
    """Write the decisions on shard (documents, signals); count its documents by rule ("" for kept)."""
    asked = rules(params)
    decisions = take_down(decide(read_signals(*shard, asked), asked), taken_down(shard[0], takedown))
    write_shard(target / shard_name("decisions", int(shard[0].stem.rpartition("-")[2])), decisions)
    return Counter(decisions["rule"].fill_null("").to_list())


def counts_of(by_rule: Counter[str]) -> dict[str, Any]:
    """What becomes the manifest's counts: read, kept, and dropped by rule."""
    dropped = {rule: number for rule, number in sorted(by_rule.items()) if rule}
    return {"read": by_rule.total(), "kept": by_rule[""], "dropped": dropped}


def refuse_if_empty(source: str, counts: dict[str, Any]) -> None:
    """Refuse a source of which nothing is left, and name the rule that dropped most."""
    if counts["kept"]:
        return
    if not counts["read"]:
        raise Refusal(f"{DOCUMENTS / source} has no documents to filter; mend sources.{source}.extract in params.yaml")
    rule, number = max(counts["dropped"].items(), key=lambda item: item[1])
    if rule == RULE:
        raise Refusal(
            f"{TAKEDOWN} takes down {number} of all {counts['read']} documents of {source}, and none is left; "
            f"take {source} out of params.yaml"
        )
    raise Refusal(
        f"{PARAMS_FILE}: sources.{source}.filter drops all {counts['read']} documents of {source}, "
        f"{number} of them by {rule}; relax that rule or set it to null"
    )


def main() -> None:
    """Decide on the documents of the source named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="a name under `sources` in params.yaml")
    source = parser.parse_args().source
    params = load_params(FilterParams, f"sources.{source}.filter")
    folder = DOCUMENTS / source
    shards = list(zip(shard_paths(folder, "documents"), shard_paths(folder, "signals"), strict=True))
    target = fresh_folder(DECISIONS / source)
    by_rule: Counter[str] = Counter()
    decide_shard = partial(filter_shard, target=target, params=params, takedown=read_takedown())
    for counted in map_shards(decide_shard, shards, f"filter {source}"):
        by_rule += counted
    counts = counts_of(by_rule)
    assert counts["kept"] + sum(counts["dropped"].values()) == counts["read"]
    refuse_if_empty(source, counts)
    write_manifest(target, counts)


if __name__ == "__main__":
    run(main)
