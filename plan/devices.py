"""Accelerators: what they can compute and hold, as their makers state it."""

import re
from dataclasses import dataclass

from stages.params import Refusal


@dataclass(frozen=True)
class Device:
    """One accelerator. Dense products: makers' figures with sparsity are twice as high."""

    name: str
    bf16: float  # FLOP/s of products in bf16
    fp32: float  # FLOP/s of products in fp32, TF32 off
    memory: float  # bytes, with the maker's (decimal) gigabytes
    source: str

    def peak(self, precision: str) -> float:
        """FLOP/s in `precision`, as params.yaml names it; auto is bf16, which all of these have."""
        return self.fp32 if precision == "fp32" else self.bf16


DEVICES = {
    device.name: device
    for device in (
        Device("a100-40", 312e12, 19.5e12, 40e9, "NVIDIA A100 data sheet"),
        Device("a100-80", 312e12, 19.5e12, 80e9, "NVIDIA A100 data sheet"),
        Device("h100", 989.4e12, 67e12, 80e9, "NVIDIA H100 data sheet, SXM5"),
        Device("h100-pcie", 756e12, 51e12, 80e9, "NVIDIA H100 data sheet, PCIe"),
        Device("h200", 989.4e12, 67e12, 141e9, "NVIDIA H200 data sheet, SXM"),
        Device("b200", 2250e12, 75e12, 180e9, "NVIDIA HGX B200 data sheet, an eighth of it"),
        Device("l4", 121e12, 30.3e12, 24e9, "NVIDIA L4 data sheet"),
        Device("l40s", 362e12, 91.6e12, 48e9, "NVIDIA L40S data sheet"),
        Device("rtx-4090", 165.2e12, 82.6e12, 24e9, "NVIDIA Ada architecture paper, appendix A"),
        Device("mi300x", 1307.4e12, 163.4e12, 192e9, "AMD Instinct MI300X data sheet"),
    )
}
PER_NODE = 8  # devices that a fast link joins: tensor parallelism stays within them


@dataclass(frozen=True)
class Machines:
    """So many of one device."""

    count: int
    device: Device

    def __str__(self) -> str:
        return f"{self.count} x {self.device.name}"


def parse_machines(text: str) -> Machines:
    """The machines that `text` names: 16xh100.

    Raises:
        Refusal: if it isn't COUNTxDEVICE, or the device is unknown.
    """
    match = re.fullmatch(r"([1-9]\d*)x([a-z][a-z0-9-]*)", text.lower())
    if not match:
        raise Refusal(f"--on {text} is not COUNTxDEVICE; write for instance 16xh100")
    if match[2] not in DEVICES:
        raise Refusal(f"--on {text}: the device {match[2]} is unknown; name one of {', '.join(DEVICES)}")
    return Machines(int(match[1]), DEVICES[match[2]])
