"""What each source will give to a training, and how often its documents will be seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.documents import read_manifest
from stages.mixture import Mixture, in_epochs
from stages.order import Stretch, count_windows, stretches
from stages.pretrain.params import PretrainParams

TOKENS = Path("data/tokenize")


@dataclass(frozen=True)
class Portion:
    """One source. What isn't counted yet is None."""

    source: str
    share: float | None  # of the training tokens
    drawn_tokens: int | None  # that the training will take
    documents: int | None  # that it has
    tokens: int | None  # that it has
    epochs: float | None  # how often it is seen


def portions(params: PretrainParams, mixture: Mixture, root: Path | None) -> list[Portion]:
    """What each source gives, with what the token shards in `root` hold; no `root`: nothing is counted.

    Drawn are whole samples, in each block of the order the largest remainders (stages/order.py). Before the sources in
    epochs are counted, no share is known.

    Raises:
        Refusal: if the epochs leave nothing for the weights, or a share is less than one sample of a block.
    """
    counts = {source: _counts(root / TOKENS / source) if root else None for source in mixture}
    windows = {name: count_windows(each["tokens"], params.sequence_length) for name, each in counts.items() if each}
    samples = params.steps * params.samples_per_step
    drawn = drawn_samples(params, mixture, windows)
    return [
        Portion(
            source,
            share=drawn[source] / samples if drawn else None,
            drawn_tokens=drawn[source] * params.sequence_length if drawn else None,
            documents=each["documents"] if each else None,
            tokens=each["tokens"] if each else None,
            epochs=drawn[source] / windows[source] if drawn and windows.get(source) else None,
        )
        for source, each in counts.items()
    ]


def drawn_samples(params: PretrainParams, mixture: Mixture, windows: Mapping[str, int]) -> dict[str, int] | None:
    """How many samples the training takes of each source; None if it depends on `windows` that aren't known."""
    if not in_epochs(mixture).keys() <= windows.keys():
        return None
    parts = stretches(params.block_samples, params.mixture_shares(mixture, windows), params.order_phases(mixture))
    blocks = params.steps * params.samples_per_step / params.block_samples
    return {source: round(sum(_drawn(part, source, blocks) for part in parts)) for source in mixture}


def _drawn(part: Stretch, source: str, blocks: float) -> float:
    """The samples of `source` that the first `blocks` blocks hold, as far as they are in `part`."""
    return max(0.0, min(part.end, blocks) - part.first) * part.counts.get(source, 0)


def _counts(folder: Path) -> dict[str, int] | None:
    """What the manifest of token shards counts; None if there is none."""
    if not (folder / "manifest.json").exists():
        return None
    counts: dict[str, int] = read_manifest(folder)["counts"]
    return counts
