"""Decide by rules which documents are kept: from their signals, without their texts."""

from stages.filter.params import FilterParams
from stages.filter.rule import Rule, decide, rules

__all__ = ["FilterParams", "Rule", "decide", "rules"]
