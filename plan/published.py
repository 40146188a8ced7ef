"""What the papers say of the presets, so that a plan can be compared with them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A model's parameters and FLOPs as published; None where the source has none."""

    parameters: float
    flops: float | None
    source: str


D1 = "GPT-3, arXiv:2005.14165, table D.1 (its parameters are rounded)"
LLAMA = "Llama 3, arXiv:2407.21783, section 3.2; the count is that of the released weights"
PUBLISHED = {
    "gpt2-124m": Published(124_439_808, None, "the released weights of GPT-2 small; its paper says 117M"),
    "pythia-160m": Published(162_322_944, None, "Pythia, arXiv:2304.01373, table 1, and the released weights"),
    "gpt3-125m": Published(125e6, 2.25e20, D1),
    "gpt3-350m": Published(356e6, 6.41e20, D1),
    "gpt3-760m": Published(760e6, 1.37e21, D1),
    "gpt3-1.3b": Published(1_320e6, 2.38e21, D1),
    "gpt3-2.7b": Published(2_650e6, 4.77e21, D1),
    "gpt3-6.7b": Published(6_660e6, 1.20e22, D1),
    "gpt3-13b": Published(12_850e6, 2.31e22, D1),
    "gpt3-175b": Published(174_600e6, 3.14e23, D1),
    "llama3-8b": Published(8_030_261_248, None, LLAMA),
    "llama3-70b": Published(70_553_706_496, None, LLAMA),
    "llama3-405b": Published(405_853_388_800, 3.8e25, LLAMA),
}
