"""Rules as expressions over what was measured: the first one broken decides.

rule sets of params.yaml  ->  rules  ->  one decision for each row of signals
"""

from dataclasses import dataclass
from typing import Any

import polars as pl

from stages.documents import DECISION_SCHEMA, DOCUMENT_SCHEMA
from stages.filter.params import FilterParams
from stages.filter.urls import UrlList, read_list
from stages.takedown import RULE

NOT_HERE = ("decontamination",)  # asked of texts, after all the others: stages.filter.decontamination
# Thresholds whose signal isn't their own name without `min_`.
SIGNALS = {"language.min_score": "language_score", "quality.min_score": "quality_score"}


@dataclass(frozen=True)
class Rule:
    """One question: is `signal` within bounds? Its name is the key of its threshold in params.yaml."""

    name: str
    signal: str  # a column of signals or of documents
    at_least: float | None = None
    at_most: float | None = None
    one_of: tuple[str, ...] | None = None
    listed: UrlList | None = None  # then what is measured is how many entries of it the URL hits
    languages: tuple[str, ...] | None = None  # asked of documents in these alone

    @property
    def broken(self) -> pl.Expr:
        """Whether a document breaks the rule. What was not measured breaks no bound."""
        if self.one_of is not None:
            return ~pl.col(self.signal).is_in(self.one_of).fill_null(False)
        measured = self._measured
        broken = measured < self.at_least if self.at_least is not None else measured > self.at_most
        return (broken if self._applies is None else broken & self._applies).fill_null(False)

    @property
    def value(self) -> pl.Expr:
        """What was measured; for a language, how sure the classifier was of it; for a licence, nothing."""
        if self.one_of is None:
            measured = self._measured.cast(pl.Float64)
            return measured if self._applies is None else pl.when(self._applies).then(measured)
        return pl.col("language_score") if self.signal == "language" else pl.lit(None, pl.Float64)

    @property
    def threshold(self) -> float | None:
        """The bound of the signal; none for a list of languages or licences."""
        return self.at_least if self.at_least is not None else self.at_most

    @property
    def is_bound(self) -> bool:
        """Whether it bounds a signal, which is a number of its own."""
        return self.one_of is None and self.listed is None

    @property
    def columns(self) -> set[str]:
        """What it asks for, of documents and of signals."""
        of_language = {"language_score"} if self.signal == "language" else set()
        return {self.signal} | of_language | ({"language"} if self.languages is not None else set())

    @property
    def _applies(self) -> pl.Expr | None:
        return None if self.languages is None else pl.col("language").is_in(self.languages)

    @property
    def _measured(self) -> pl.Expr:
        return pl.col(self.signal) if self.listed is None else self.listed.hits


def rules(params: FilterParams, where: str = "filter") -> list[Rule]:
    """The rules in the order in which they are asked: the first one broken decides.

    `gopher_quality.min_words: 50` becomes Rule("gopher_quality.min_words", "words", at_least=50). `where` is
    the section that `params` are of.

    Raises:
        Refusal: if a list is not the file that is pinned.
    """
    found = []
    for group in FilterParams.model_fields:
        thresholds = getattr(params, group)
        if thresholds is None or group in NOT_HERE:
            continue
        languages = getattr(thresholds, "languages", None)
        for key in type(thresholds).model_fields:
            threshold = getattr(thresholds, key)
            if threshold is not None and key != "languages":
                found.append(_rule(group, key, threshold, languages, where))
    return found


def _rule(group: str, key: str, threshold: Any, languages: tuple[str, ...] | None, where: str) -> Rule:
    """The rule that `key` of the rule set `group` stands for."""
    name = f"{group}.{key}"
    if group == "url":
        return Rule(name, "meta", at_most=0, listed=read_list(key, threshold, f"{where}.{name}"))
    if key == "allowed":
        return Rule(name, group, one_of=threshold)
    signal = SIGNALS.get(name, key[len("min_") :])
    if key.startswith("min_"):
        return Rule(name, signal, at_least=threshold, languages=languages)
    return Rule(name, signal, at_most=threshold, languages=languages)


def columns_of(rules: list[Rule]) -> tuple[list[str], list[str]]:
    """The columns of documents, and those of signals, that `rules` ask for, beside id."""
    wanted = {column for rule in rules for column in rule.columns}
    return sorted(wanted & DOCUMENT_SCHEMA.keys()), sorted(wanted - DOCUMENT_SCHEMA.keys())


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
