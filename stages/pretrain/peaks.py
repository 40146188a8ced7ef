"""How fast a device can be, and what share of that a training uses (MFU).

Peaks are the makers' figures for dense bf16 products with fp32 sums, in TFLOP/s, without sparsity:

- NVIDIA A100 datasheet (2021), H100 and H200 datasheets (2023, 2024; their figures with sparsity, halved), B200 in
  the DGX B200 datasheet (36 PFLOP/s bf16 with sparsity by 8 GPUs, halved), L40S, L4 and A10 datasheets, V100
  datasheet (fp16: it has no bf16)
- NVIDIA Ada GPU architecture whitepaper, appendix A: RTX 4090 and 4080 with fp32 sums
- AMD Instinct MI250X (per die: half of the module), MI300X and MI325X datasheets
"""

import torch

# The first name that the device's own contains counts, so longer ones stand before those that they begin with.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "V100": 125.0,
    "RTX 4090": 165.2,
    "RTX 4080": 97.5,
    "MI325X": 1307.4,
    "MI300X": 1307.4,
    "MI250X": 191.5,
}


def peak_flops(device_name: str) -> float | None:
    """The device's peak in FLOP/s, dense bf16; None if the table doesn't know it."""
    if "Laptop" in device_name:
        return None  # it has the name, not the speed
    words = device_name.replace("-", " ")
    for name, tflops in PEAK_TFLOPS.items():
        if f" {name} " in f" {words} ":
            return tflops * 1e12
    return None


def device_name(device: torch.device) -> str:
    """What the device calls itself, such as "NVIDIA H100 80GB HBM3"; "" for a processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def utilization(flops_per_second: float, peak: float | None, devices: int) -> float | None:
    """The share of the peak of `devices` that is used, 0 to 1 (model FLOPs utilization, arXiv:2204.02311, appendix B).

    None where there is no peak, or a wrong one: more than all of it can't be used, so no such figure is given.
    """
    if peak is None:
        return None
    share = flops_per_second / (peak * devices)
    return share if share <= 1 else None
