"""How a training is spread over devices, and the first way in which it fits."""

from collections.abc import Iterator
from dataclasses import dataclass

from plan.devices import PER_NODE, Machines
from plan.memory import Layout, memory_by_part
from plan.shape import Shape
from stages.pretrain.params import PretrainParams

FULL = 0.9  # share of a device's memory that may be planned: the rest is for its context, buffers and holes
LARGEST_MICRO_BATCH = 64
MOST_CONTEXT = 16


@dataclass(frozen=True)
class Fit:
    """A layout, and the bytes on each device by part."""

    layout: Layout
    memory: dict[str, float]


def first_fit(shape: Shape, params: PretrainParams, machines: Machines) -> Fit | None:
    """The first layout that fits on `machines`, and divides the samples of a step evenly; None if there is none.

    What costs least comes first: no context parallelism, then the least tensor parallelism, then activations that
    are kept, then the fewest devices that share one copy of the state; and of these the largest micro-batch.
    """
    room = FULL * machines.device.memory
    for layout in layouts(shape, params, machines.count):
        memory = memory_by_part(shape, params, layout)
        if sum(memory.values()) <= room:
            return Fit(layout, memory)
    return None


def layouts(shape: Shape, params: PretrainParams, count: int) -> Iterator[Layout]:
    """All layouts of `count` devices that compute the same step, in the order in which `first_fit` asks."""
    for context in powers_of_two(MOST_CONTEXT):
        for tensor in powers_of_two(PER_NODE):
            data, rest = divmod(count, context * tensor)
            if rest or params.samples_per_step % max(1, data) or shape.key_heads % tensor:
                continue
            if params.sequence_length % (2 * context):  # each device takes two pieces, to balance a causal mask
                continue
            mine = params.samples_per_step // max(1, data)
            for recompute in (False, True):
                for shards in divisors(data):
                    for micro_batch in reversed(divisors(mine)):
                        if micro_batch <= LARGEST_MICRO_BATCH:
                            replicas, accumulation = data // shards, mine // micro_batch
                            yield Layout(replicas, shards, tensor, context, micro_batch, accumulation, recompute)


def fewest(shape: Shape, params: PretrainParams, machines: Machines) -> int | None:
    """The fewest devices of this kind on which it fits, of the powers of two; None if not even one a sample does."""
    for count in powers_of_two(params.samples_per_step * PER_NODE * MOST_CONTEXT):
        if first_fit(shape, params, Machines(count, machines.device)):
            return count
    return None


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, … up to `most`."""
    return [1 << power for power in range(most.bit_length())]


def divisors(number: int) -> list[int]:
    """All divisors of `number`, ascending; none of 0."""
    small = [each for each in range(1, int(number**0.5) + 1) if number % each == 0]
    return small + [number // each for each in reversed(small) if each * each != number]
