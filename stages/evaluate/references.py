"""What others make of the same held-out bytes: general compressors, and a small model of bytes.

All of them in bits per byte, as the model is measured.
"""

import lzma
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.evaluate.held_out import HeldOut, per_byte, read_rows

PRESET = 9 | lzma.PRESET_EXTREME  # what `xz -9e` does
CONTEXTS = 256 * 256


def xz_bits_per_byte(text: bytes, primer: bytes = b"") -> float:
    """Bits that `xz -9e` needs for each byte of `text`, when it has just packed `primer`."""
    packed = xz_bytes(primer + text) - (xz_bytes(primer) if primer else 0)
    return 8 * packed / len(text)


def xz_bytes(data: bytes) -> int:
    """The size of `data` packed by `xz -9e`."""
    return len(lzma.compress(data, preset=PRESET))


class ByteModel:
    """An order-2 model of bytes: the counts of a training text, blended by Witten and Bell's method.

    The probability of a byte after two others is their relative frequency, mixed with that after one,
    after none, and the uniform one, by how many different bytes followed the context (Witten & Bell
    1991, method C).
    """

    def __init__(self, text: bytes) -> None:
        codes = np.frombuffer(text, np.uint8).astype(np.int64)
        trigrams = (codes[:-2] * 256 + codes[1:-1]) * 256 + codes[2:]
        self.two = np.bincount(trigrams, minlength=CONTEXTS * 256).reshape(CONTEXTS, 256)
        self.one = self.two.reshape(256, 256, 256).sum(axis=0)
        self.none = self.one.sum(axis=0)

    def bits(self, text: bytes) -> float:
        """The bits that `text` costs; its first two bytes at 8 each."""
        if len(text) < 3:
            return 8.0 * len(text)
        codes = np.frombuffer(text, np.uint8).astype(np.int64)
        before, last, byte = codes[:-2], codes[1:-1], codes[2:]
        chance = _blend(self.none[None, :], np.zeros_like(byte), byte, np.full(len(byte), 1 / 256))
        chance = _blend(self.one, last, byte, chance)
        chance = _blend(self.two, before * 256 + last, byte, chance)
        return float(16.0 - np.log2(chance).sum())


def _blend(
    counts: NDArray[np.int64], context: NDArray[np.int64], byte: NDArray[np.int64], lower: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The chance of each byte in its context, given its chance in the shorter one."""
    total = counts.sum(axis=1)[context]
    kinds = (counts > 0).sum(axis=1)[context]
    blended: NDArray[np.float64] = (counts[context, byte] + kinds * lower) / np.maximum(total + kinds, 1)
    return np.where(total + kinds > 0, blended, lower)


def reference_bits(sets: Sequence[HeldOut], sources: Sequence[str]) -> dict[str, Any]:
    """Each reference's bits per byte, over all sets and (but for the primed one) by source."""
    training = "\n".join(text for name in sources for (text,) in read_rows(name, "train", ["text"])).encode()
    joined = b"\n".join(data for each in sets for data in each.data)
    model = ByteModel(training)
    order2 = [sum(map(model.bits, each.data)) for each in sets]
    return {
        "xz": round(xz_bits_per_byte(joined), 4),
        "xz_primed": round(xz_bits_per_byte(joined, training), 4),
        "order2": per_byte(order2, sets),
        "sources": {
            each.source: {
                "xz": round(xz_bits_per_byte(b"\n".join(each.data)), 4),
                "order2": per_byte([bits], [each]),
            }
            for each, bits in zip(sets, order2, strict=True)
        },
    }
