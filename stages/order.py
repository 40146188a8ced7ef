"""The order of the training samples, as a pure function that can be inverted.

    global sample number  <->  (source, epoch, window of tokens)

Samples come in blocks. Each block holds the same whole number of samples of each source (its mixture
weight, by largest remainder): the sources by their names, and then in an order of the block's own. From a block on the
mixture may be another one; the sources go on where they are. Within a source
and epoch the windows come in a permutation of their own. Both permutations are keyed Feistel networks (Luby & Rackoff
1988; used so by Levanter), so nothing is stored: resuming is a number, the order doesn't depend on how many processes
read it, and a longer run begins as a shorter one did.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

from stages.params import Refusal

ROUNDS = 6
MASK64 = (1 << 64) - 1
# Text that is seen more often teaches ever less (Muennighoff et al. 2023, arXiv:2305.16264, section 5).
WORTHWHILE_EPOCHS = 4
ENDLESS = 1 << 40  # blocks: more than any training has


def apportion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """`total` divided in proportion to `shares`, in whole numbers that sum to it (largest remainder).

    Equal remainders go to the one that stands first.
    """
    scale = total / sum(shares.values())
    counts = {name: int(share * scale) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name] * scale)
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


@lru_cache(maxsize=4096)
def _round_keys(key: tuple[object, ...]) -> tuple[int, ...]:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8 * ROUNDS).digest()
    return tuple(int.from_bytes(digest[i : i + 8], "little") for i in range(0, len(digest), 8))


def _mix(value: int, key: int) -> int:
    """splitmix64's finaliser (Steele et al. 2014): every bit of the result depends on every bit given."""
    value = ((value ^ key) * 0xBF58476D1CE4E5B9) & MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK64
    return value ^ (value >> 31)


def permute(index: int, size: int, key: tuple[object, ...]) -> int:
    """Where the permutation of range(size) named by `key` sends `index`."""
    return _walk(index, size, key, _round_keys(key))


def unpermute(index: int, size: int, key: tuple[object, ...]) -> int:
    """The number that `permute` sends to `index`."""
    return _walk(index, size, key, _round_keys(key), inverse=True)


def _walk(index: int, size: int, key: tuple[object, ...], keys: tuple[int, ...], inverse: bool = False) -> int:
    """Apply the network on the next power of four until the result falls into range(size)."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        if inverse:
            for round_key in reversed(keys):
                left, right = right ^ (_mix(left, round_key) & mask), left
        else:
            for round_key in keys:
                left, right = right, left ^ (_mix(right, round_key) & mask)
        index = left << half | right
        if index < size:
            return index


@dataclass(frozen=True)
class Sample:
    """One training window: tokens [window * length, (window + 1) * length] of `source`, in its `epoch`."""

    source: str
    epoch: int
    window: int


@dataclass(frozen=True)
class Phase:
    """From sample `begin` on the sources are drawn in the shares of `mixture`; one that isn't in it, not at all."""

    begin: int
    mixture: Mapping[str, float]


@dataclass(frozen=True)
class Stretch:
    """Blocks that hold the same numbers of samples of each source."""

    first: int  # block
    end: int  # the block after the last
    counts: Mapping[str, int]  # samples of each source in a block, in the order of their names; those that have any
    before: Mapping[str, int]  # samples of each source in all blocks before the first

    @cached_property
    def offsets(self) -> dict[str, int]:
        """The first slot of each source in a block, before the block is put in its own order."""
        return dict(zip(self.counts, accumulate(self.counts.values(), initial=0), strict=False))

    def ranks(self, source: str, block: int) -> int:
        """How many samples of `source` there are before `block`, which is one of these or the one after."""
        return self.before.get(source, 0) + (block - self.first) * self.counts.get(source, 0)


def stretches(block_samples: int, mixture: Mapping[str, float], phases: Sequence[Phase] = ()) -> tuple[Stretch, ...]:
    """What the blocks of the order hold: of `mixture`, and then of each of the `phases`.

    Raises:
        Refusal: if a share is less than one sample of a block.
    """
    begins = [0, *(phase.begin // block_samples for phase in phases)]
    ends, before, found = [*begins[1:], ENDLESS], dict.fromkeys(sorted(mixture), 0), []
    for begin, end, shares in zip(begins, ends, [mixture, *(phase.mixture for phase in phases)], strict=True):
        counts = apportion(block_samples, {name: shares[name] for name in sorted(shares)})
        for source, count in counts.items():
            if count < 1:
                raise Refusal(
                    f"params.yaml: mixture.{source} is less than one sample in pretrain.block_samples "
                    f"({block_samples}); raise either"
                )
        found.append(Stretch(begin, end, counts, before))
        before = {source: found[-1].ranks(source, end) for source in before}
    return tuple(found)


@dataclass(frozen=True)
class Order:
    """The order for `seed`, of sources with so many `windows`, in the shares of `mixture`, later in those of `phases`.

    A phase begins with a block.
    """

    seed: int
    block_samples: int
    windows: Mapping[str, int]
    mixture: Mapping[str, float]
    phases: tuple[Phase, ...] = ()

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """What its blocks hold.

        Raises:
            Refusal: if a source is too small for one window, or its share for one sample a block.
        """
        for source in sorted(self.mixture):
            if self.windows[source] < 1:
                raise Refusal(
                    f"data/tokenize/{source} has fewer tokens than one sample; "
                    f"take {source} out of params.yaml, or lower pretrain.sequence_length"
                )
        return stretches(self.block_samples, self.mixture, self.phases)

    def stretch(self, block: int) -> Stretch:
        """The one that `block` is in."""
        return next(each for each in reversed(self.stretches) if each.first <= block)

    def ranks(self, source: str, block: int) -> int:
        """How many samples of `source` there are before `block`."""
        return self.stretch(block).ranks(source, block)

    def sample(self, number: int) -> Sample:
        """The sample with the global `number`, counted from 0."""
        block, place = divmod(number, self.block_samples)
        stretch = self.stretch(block)
        slot = permute(place, self.block_samples, (self.seed, "block", block))
        source = next(name for name in reversed(stretch.offsets) if stretch.offsets[name] <= slot)
        rank = stretch.ranks(source, block) + slot - stretch.offsets[source]
        epoch, index = divmod(rank, self.windows[source])
        return Sample(source, epoch, permute(index, self.windows[source], (self.seed, source, epoch)))

    def number(self, sample: Sample) -> int | None:
        """The global number of `sample`: the inverse of `sample(number)`. None if it never comes."""
        size = self.windows[sample.source]
        rank = sample.epoch * size + unpermute(sample.window, size, (self.seed, sample.source, sample.epoch))
        for stretch in self.stretches:
            if sample.source in stretch.counts and rank < stretch.ranks(sample.source, stretch.end):
                block, rest = divmod(rank - stretch.before[sample.source], stretch.counts[sample.source])
                block += stretch.first
                slot = stretch.offsets[sample.source] + rest
                return block * self.block_samples + unpermute(slot, self.block_samples, (self.seed, "block", block))
        return None

    def drawn(self, total: int) -> dict[str, int]:
        """How many of the first `total` samples are of each source."""
        blocks, rest = divmod(total, self.block_samples)
        counts = {source: self.ranks(source, blocks) for source in sorted(self.mixture)}
        for number in range(total - rest, total):
            counts[self.sample(number).source] += 1
        return counts

    def numbers(self, source: str, window: int, before: int) -> Iterator[int]:
        """The global numbers below `before` at which `window` of `source` is trained on, epoch by epoch."""
        # An epoch can end inside a block, so its samples are not strictly after the last epoch's.
        for epoch in range(-(-self.ranks(source, -(-before // self.block_samples)) // self.windows[source])):
            number = self.number(Sample(source, epoch, window))
            if number is not None and number < before:
                yield number


def count_windows(tokens: int, length: int) -> int:
    """How many samples of `length` tokens (and the one after, as the last target) `tokens` give."""
    return max(0, (tokens - 1) // length)
