"""The held-out documents: text that no tokenizer and no model of this build has seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from stages.documents import kept_documents
from stages.params import Refusal


@dataclass(frozen=True)
class HeldOut:
    """The held-out documents of one source: their ids, and their texts, whole."""

    source: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def data(self) -> list[bytes]:
        """The texts in UTF-8."""
        return [text.encode() for text in self.texts]

    @property
    def sizes(self) -> list[int]:
        """Length of each text in UTF-8."""
        return list(map(len, self.data))

    @property
    def bytes(self) -> int:
        """Length of all texts in UTF-8."""
        return sum(self.sizes)

    def first(self, budget: int) -> "HeldOut":
        """The first documents, until they hold `budget` bytes; at least one."""
        before = [0, *accumulate(self.sizes)][:-1]  # bytes before each text
        count = max(1, sum(size < budget for size in before))
        return HeldOut(self.source, self.ids[:count], self.texts[:count])


def read_rows(source: str, split: str, columns: list[str]) -> list[tuple[str, ...]]:
    """`columns` of the documents of `source` in `split`, in the order of the corpus."""
    folders = Path("data/extract") / source, Path("data/dedup") / source
    return [row for shard in kept_documents(*folders, columns, split) for row in shard.iter_rows()]


def held_out(sources: Sequence[str], budget: int) -> list[HeldOut]:
    """The held-out documents of each source, at most about `budget` bytes of each.

    Raises:
        Refusal: if there are none at all.
    """
    rows = {name: [row for row in read_rows(name, "held_out", ["id", "text"]) if row[1]] for name in sources}
    sets = [HeldOut(name, tuple(id for id, _ in each), tuple(text for _, text in each)) for name, each in rows.items()]
    filled = [each.first(budget) for each in sets if each.texts]
    if not filled:
        raise Refusal("data/dedup holds no held-out document to evaluate on; raise dedup.held_out in params.yaml")
    return filled


def per_byte(bits: Sequence[float], sets: Sequence[HeldOut]) -> float:
    """Bits per byte over all sets together."""
    return round(sum(bits) / sum(each.bytes for each in sets), 4)
