"""What each source will give to a training, and how often its documents will be seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.documents import read_manifest
from stages.order import Stretch, count_windows, stretches
from stages.pretrain.params import PretrainParams

TOKENS = Path("data/tokenize")


@dataclass(frozen=True)
class Portion:
    """One source. What isn't counted yet is None."""

    source: str
    share: float  # of the training tokens
    drawn_tokens: int  # that the training will take
    documents: int | None  # that it has
    tokens: int | None  # that it has
    epochs: float | None  # how often it is seen


def portions(params: PretrainParams, mixture: Mapping[str, float], root: Path | None) -> list[Portion]:
    """What each source gives, with what the token shards in `root` hold; no `root`: nothing is counted.

    Drawn are whole samples, in each block of the order the largest remainders (stages/order.py).
    """
    parts = stretches(params.block_samples, mixture, params.order_phases(mixture))
    samples = params.steps * params.samples_per_step
    found = []
    for source in mixture:
        drawn = round(sum(_drawn(part, source, samples / params.block_samples) for part in parts))
        share = drawn / samples
        counts = _counts(root / TOKENS / source) if root else None
        tokens = counts["tokens"] if counts else None
        windows = count_windows(tokens, params.sequence_length) if tokens else 0
        epochs = drawn / windows if windows else None
        documents = counts["documents"] if counts else None
        found.append(Portion(source, share, drawn * params.sequence_length, documents, tokens, epochs))
    return found


def _drawn(part: Stretch, source: str, blocks: float) -> float:
    """The samples of `source` that the first `blocks` blocks hold, as far as they are in `part`."""
    return max(0.0, min(part.end, blocks) - part.first) * part.counts.get(source, 0)


def _counts(folder: Path) -> dict[str, int] | None:
    """What the manifest of token shards counts; None if there is none."""
    if not (folder / "manifest.json").exists():
        return None
    counts: dict[str, int] = read_manifest(folder)["counts"]
    return counts
