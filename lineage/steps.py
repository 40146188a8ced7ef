"""Which tokens were trained on in which steps: the order of stages/order.py, both ways, for many samples at once.

tokens of a source  <->  windows  <->  sample numbers  <->  steps  ->  checkpoints

A step s (from 1, as in plots/loss.csv) trains on the samples [(s - 1)·B, s·B). The window w of a causal model
has the tokens [w·T, w·T + T]: all but the last go in, all but the first are asked for. A masked model sees
[w·T, w·T + T). A token is *seen* in a step if it goes in or is asked for in a window of that step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from stages import order as scalar
from stages.order import Order, Stretch

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Plan:
    """What a build trained on."""

    order: Order
    length: int  # T: tokens of a sample
    samples_per_step: int  # B
    steps: int
    causal: bool
    checkpoints: tuple[int, ...]  # the steps after which weights were published, besides the base model

    @property
    def samples(self) -> int:
        """Of all steps."""
        return self.steps * self.samples_per_step

    def windows_of(self, source: str, begin: int, end: int) -> range:
        """The windows in which any of the tokens [begin, end) of the stream of `source` is seen."""
        if begin >= end:
            return range(0)
        last_seen = self.length if self.causal else self.length - 1  # of a window, counted from its first
        first = max(0, -(-(begin - last_seen) // self.length))
        return range(first, max(first, min((end - 1) // self.length + 1, self.order.windows[source])))

    def step_of(self, number: int) -> int:
        """The step that trains on the sample with the global `number`."""
        return number // self.samples_per_step + 1

    def samples_of(self, first: int, last: int) -> tuple[int, int]:
        """The sample numbers [begin, end) of the steps `first` to `last`, both included."""
        return (first - 1) * self.samples_per_step, last * self.samples_per_step

    def before(self, step: int) -> int | None:
        """The last checkpoint that was published before `step` was trained; None if there was none."""
        return max((each for each in self.checkpoints if each < step), default=None)

    def after(self, step: int) -> int:
        """The first checkpoint that has `step` in it: the base model, if no other has."""
        return min((each for each in self.checkpoints if each >= step), default=self.steps)

    def name(self, checkpoint: int | None) -> str:
        """What the checkpoint after that step is called."""
        if checkpoint is None:
            return "none"
        return f"step-{checkpoint:08d}" if checkpoint in self.checkpoints else "models/base"


@dataclass(frozen=True)
class Seen:
    """When some windows of a source were trained on: arrays of one length, in the order of training."""

    numbers: Ints  # of the samples
    epochs: Ints  # from 0
    windows: Ints


@dataclass(frozen=True)
class Times:
    """How often each window of a source was drawn: arrays of shape (windows,), and one longer for the sums."""

    each: Ints

    @cached_property
    def sums(self) -> Ints:
        """How often the windows before each were drawn, all together."""
        return np.append(0, np.cumsum(self.each))


def seen(order: Order, source: str, windows: range, before: int) -> Seen:
    """When the `windows` of `source` are trained on, in the samples with a number below `before`."""
    size, drawn = order.windows[source], order.ranks(source, -(-before // order.block_samples))
    asked = np.arange(windows.start, windows.stop, dtype=np.int64)
    parts = [np.zeros((3, 0), np.int64)]
    for epoch in range(-(-drawn // size)):
        ranks = epoch * size + permuted(asked, size, _keys([(order.seed, source, epoch)])[0], inverse=True)
        came = ranks < drawn
        numbers = _numbers(order, source, ranks[came])
        found = np.stack([numbers, np.full_like(numbers, epoch), asked[came]])
        parts.append(found[:, numbers < before])
    whole = np.concatenate(parts, axis=1)
    return Seen(*whole[:, np.argsort(whole[0], kind="stable")])


def _numbers(order: Order, source: str, ranks: Ints) -> Ints:
    """The sample numbers of the samples of `source` with these ranks among all of its samples."""
    numbers = np.empty(len(ranks), np.int64)
    for stretch in order.stretches:
        if source in stretch.counts:
            mine = (ranks >= stretch.before[source]) & (ranks < stretch.ranks(source, stretch.end))
            numbers[mine] = _numbers_within(order, stretch, source, ranks[mine])
    return numbers


def _numbers_within(order: Order, stretch: Stretch, source: str, ranks: Ints) -> Ints:
    """The same, of samples that are in `stretch`."""
    blocks, rests = np.divmod(ranks - stretch.before[source], stretch.counts[source])
    blocks += stretch.first
    own, at = np.unique(blocks, return_inverse=True)
    keys = _keys([(order.seed, "block", int(block)) for block in own])[at]
    places = permuted(rests + stretch.offsets[source], order.block_samples, keys.T, inverse=True)
    return blocks * order.block_samples + places


def drawn(order: Order, begin: int, end: int) -> dict[str, Times]:
    """How often each window of each source is in the samples [begin, end)."""
    ranks = _ranks(order, begin, end)
    return {source: Times(_times(order, source, ranges)) for source, ranges in ranks.items()}


def _ranks(order: Order, begin: int, end: int) -> dict[str, list[Ints]]:
    """The ranks, among all samples of their source, of the samples [begin, end).

    In whole blocks they are a range, whatever the order within; in the two at the edges they are asked for one by one.
    """
    size = order.block_samples
    first, last = -(-begin // size), end // size
    edges = [(begin, end)] if first > last else [(begin, first * size), (last * size, end)]
    found: dict[str, list[Ints]] = {source: [] for source in sorted(order.mixture)}
    for source, ranks in found.items():
        if first < last:
            ranks.append(np.arange(order.ranks(source, first), order.ranks(source, last), dtype=np.int64))
    for one, other in edges:
        numbers = np.arange(one, other, dtype=np.int64)
        if len(numbers):
            block = one // size
            slots = permuted(numbers - block * size, size, _keys([(order.seed, "block", block)])[0])
            stretch = order.stretch(block)
            for source, offset in stretch.offsets.items():
                own = slots[(slots >= offset) & (slots < offset + stretch.counts[source])]
                found[source].append(stretch.ranks(source, block) + own - offset)
    return found


def _times(order: Order, source: str, ranges: list[Ints]) -> Ints:
    size = order.windows[source]
    times = np.zeros(size, np.int64)
    ranks = np.concatenate(ranges) if ranges else np.zeros(0, np.int64)
    epochs, counts = np.unique(ranks // size, return_counts=True)
    for epoch, count in zip(epochs.tolist(), counts.tolist(), strict=True):
        if count == size:  # a whole epoch: each window once
            times += 1
            continue
        index = ranks[ranks // size == epoch] % size
        times[permuted(index, size, _keys([(order.seed, source, epoch)])[0])] += 1
    return times


def target_tokens(plan: Plan, times: Times, begins: Ints, ends: Ints) -> Ints:
    """How many target tokens each of the token ranges [begin, end) has in windows drawn so many `times`.

    Of a causal model the targets of the window w are the tokens [w·T + 1, w·T + T]; of a masked one a part of its
    tokens is drawn as targets, and all of them count here.
    """
    ahead = 1 if plan.causal else 0
    return _sum_before(plan.length, times, ends - ahead) - _sum_before(plan.length, times, begins - ahead)


def _sum_before(length: int, times: Times, positions: Ints) -> Ints:
    """The sum over the positions before each of `positions` of how often their window was drawn."""
    windows = len(times.each)
    whole, rest = np.divmod(np.clip(positions, 0, windows * length), length)
    found: Ints = times.sums[whole] * length + times.each[np.minimum(whole, windows - 1)] * rest
    return found


def times_seen(plan: Plan, times: Times, begins: Ints, ends: Ints) -> Ints:
    """In how many of the samples drawn any token of each of the non-empty ranges [begin, end) is seen."""
    last_seen = plan.length if plan.causal else plan.length - 1
    windows = len(times.each)
    first = np.clip(-(-(begins - last_seen) // plan.length), 0, windows)
    found: Ints = times.sums[np.clip((ends - 1) // plan.length + 1, first, windows)] - times.sums[first]
    return found


def permuted(values: Ints, size: int, keys: Words, inverse: bool = False) -> Ints:
    """Where the permutation of range(size) sends each of `values`: stages.order.permute, of many at once.

    `keys` has a row for each round, of one key for all, or of one for each of the values.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    found, waiting = values.astype(np.uint64), np.arange(len(values))
    while len(waiting):
        left, right = found[waiting] >> half, found[waiting] & mask
        for key in (each[waiting] if keys.ndim > 1 else each for each in (reversed(keys) if inverse else keys)):
            if inverse:
                left, right = right ^ (_mix(left, key) & mask), left
            else:
                left, right = right, left ^ (_mix(right, key) & mask)
        found[waiting] = left << half | right
        waiting = waiting[found[waiting] >= size]
    return found.astype(np.int64)


def _mix(values: Words, key: Any) -> Words:
    """stages.order's function of one number, which computes as well on arrays of them."""
    mixed: Words = scalar._mix(values, key)  # type: ignore[arg-type, assignment]
    return mixed


def _keys(names: Sequence[tuple[object, ...]]) -> Words:
    """The round keys of the permutations with these names, shape (names, rounds)."""
    return np.array([scalar._round_keys(name) for name in names], np.uint64).reshape(len(names), scalar.ROUNDS)
