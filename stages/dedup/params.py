"""The parameters of dedup."""

from typing import ClassVar, Literal

from pydantic import Field

from stages.params import StageParams


class SpanCuts(StageParams):
    """Which lines or paragraphs (the section fingerprint.spans says which) are cut from documents."""

    max_copies: int = Field(
        1, ge=1, description="of a span that occurs more often in a source, so many stay: the first ones"
    )
    min_characters_left: int = Field(1, ge=0, description="a document that is left with fewer is dropped")


class DedupParams(StageParams):
    """Duplicates, and the held-out split. What signatures are made of stands in the section fingerprint."""

    moved: ClassVar[dict[str, str]] = {name: f"fingerprint.{name}" for name in ("ngram", "bands", "rows")}

    held_out: float = Field(0.0, ge=0, lt=1, description="share of the kept documents that is never trained on")
    near: bool = Field(True, description="find near-duplicates, not only exact ones")
    across_sources: bool = Field(True, description="find duplicates in other sources, too, not only in the same one")
    min_similarity: float | None = Field(
        0.65, gt=0, le=1, description="least similarity of near-duplicates that share a band, estimated by all hashes"
    )
    verify: float | None = Field(
        None, gt=0, le=1, description="the same by their texts, which are read for it: least true Jaccard similarity"
    )
    keep: tuple[Literal["priority", "length", "id"], ...] = Field(
        ("priority", "length", "id"),
        description="of duplicates the one is kept whose source has priority, that is longest, with the smallest id: "
        "asked in this order; the id decides in the end",
    )
    priority: tuple[str, ...] = Field(
        (), description="sources, the one whose documents are kept before others' first; those not named are equals"
    )
    spans: SpanCuts | None = None
    seed: int = Field(1, ge=0, lt=1 << 63, description="of the held-out split")
