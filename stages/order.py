"""The order of the training samples, as a pure function that can be inverted.

    global sample number  <->  (source, epoch, window of tokens)

Samples come in blocks. Each block holds the same whole number of samples of each source (its mixture
weight, by largest remainder): the sources by their names, and then in an order of the block's own. Within a source
and epoch the windows come in a permutation of their own. Both permutations are keyed Feistel networks (Luby & Rackoff
1988; used so by Levanter), so nothing is stored: resuming is a number, the order doesn't depend on how many processes
read it, and a longer run begins as a shorter one did.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from stages.params import Refusal

ROUNDS = 6
MASK64 = (1 << 64) - 1


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
class Order:
    """The order for `seed`, of sources with so many `windows`, in the shares of `mixture`."""

    seed: int
    block_samples: int
    windows: Mapping[str, int]
    mixture: Mapping[str, float]

    @cached_property
    def per_block(self) -> dict[str, int]:
        """Samples of each source in every block, in the order of their names.

        Raises:
            Refusal: if a source is too small for one window, or its share for one sample a block.
        """
        counts = apportion(self.block_samples, {name: self.mixture[name] for name in sorted(self.mixture)})
        for source, count in counts.items():
            if self.windows[source] < 1:
                raise Refusal(
                    f"data/tokenize/{source} has fewer tokens than one sample; "
                    f"take {source} out of params.yaml, or lower pretrain.sequence_length"
                )
            if count < 1:
                raise Refusal(
                    f"params.yaml: mixture.{source} is less than one sample in pretrain.block_samples "
                    f"({self.block_samples}); raise either"
                )
        return counts

    @cached_property
    def _offsets(self) -> dict[str, int]:
        offsets, total = {}, 0
        for source, count in self.per_block.items():
            offsets[source] = total
            total += count
        return offsets

    def sample(self, number: int) -> Sample:
        """The sample with the global `number`, counted from 0."""
        block, place = divmod(number, self.block_samples)
        slot = permute(place, self.block_samples, (self.seed, "block", block))
        source = next(name for name in reversed(self._offsets) if self._offsets[name] <= slot)
        rank = block * self.per_block[source] + slot - self._offsets[source]
        epoch, index = divmod(rank, self.windows[source])
        return Sample(source, epoch, permute(index, self.windows[source], (self.seed, source, epoch)))

    def number(self, sample: Sample) -> int:
        """The global number of `sample`: the inverse of `sample(number)`."""
        size = self.windows[sample.source]
        index = unpermute(sample.window, size, (self.seed, sample.source, sample.epoch))
        block, rank = divmod(sample.epoch * size + index, self.per_block[sample.source])
        slot = self._offsets[sample.source] + rank
        place = unpermute(slot, self.block_samples, (self.seed, "block", block))
        return block * self.block_samples + place

    def drawn(self, total: int) -> dict[str, int]:
        """How many of the first `total` samples are of each source."""
        blocks, rest = divmod(total, self.block_samples)
        counts = {source: blocks * count for source, count in self.per_block.items()}
        for number in range(total - rest, total):
            counts[self.sample(number).source] += 1
        return counts

    def numbers(self, source: str, window: int, before: int) -> Iterator[int]:
        """The global numbers below `before` at which `window` of `source` is trained on, epoch by epoch."""
        epoch = 0
        # An epoch can end inside a block, so its samples are not strictly after the last epoch's.
        while (epoch * self.windows[source]) // self.per_block[source] * self.block_samples < before:
            number = self.number(Sample(source, epoch, window))
            if number < before:
                yield number
            epoch += 1


def count_windows(tokens: int, length: int) -> int:
    """How many samples of `length` tokens (and the one after, as the last target) `tokens` give."""
    return max(0, (tokens - 1) // length)
