"""The held-out documents: text that no tokenizer and no model of this build has seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.documents import kept_documents
from stages.params import Refusal


@dataclass(frozen=True)
class HeldOut:
    """The held-out documents of one source: their texts, whole."""

    source: str
    texts: tuple[str, ...]

    @property
    def data(self) -> list[bytes]:
        """The texts in UTF-8."""
        return [text.encode() for text in self.texts]

    @property
    def bytes(self) -> int:
        """Length of all texts in UTF-8."""
        return sum(map(len, self.data))

    def first(self, budget: int) -> "HeldOut":
        """The first documents, until they hold `budget` bytes; at least one."""
        texts: list[str] = []
        size = 0
        for text in self.texts:
            if size >= budget and texts:
                break
            texts.append(text)
            size += len(text.encode())
        return HeldOut(self.source, tuple(texts))


def read_texts(source: str, split: str) -> list[str]:
    """The texts of `source` in `split`, in the order of the corpus."""
    folders = Path("data/extract") / source, Path("data/dedup") / source
    return [text for shard in kept_documents(*folders, ["text"], split) for text in shard["text"]]


def held_out(sources: Sequence[str], budget: int) -> list[HeldOut]:
    """The held-out documents of each source, at most about `budget` bytes of each.

    Raises:
        Refusal: if there are none at all.
    """
    sets = [HeldOut(name, tuple(text for text in read_texts(name, "held_out") if text)) for name in sources]
    filled = [each.first(budget) for each in sets if each.texts]
    if not filled:
        raise Refusal("data/dedup holds no held-out document to evaluate on; raise dedup.held_out in params.yaml")
    return filled


def per_byte(bits: Sequence[float], sets: Sequence[HeldOut]) -> float:
    """Bits per byte over all sets together."""
    return round(sum(bits) / sum(each.bytes for each in sets), 4)
