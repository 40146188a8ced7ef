"""What a plan says of devices and memory is what the training itself goes by."""

import pytest

from plan.devices import DEVICES
from plan.memory import LOGIT_ROWS
from stages.pretrain.loss import ROWS
from stages.pretrain.peaks import peak_flops

# What the device calls itself while it trains.
NAMES = {
    "a100-40": "NVIDIA A100-SXM4-40GB",
    "a100-80": "NVIDIA A100-SXM4-80GB",
    "h100": "NVIDIA H100 80GB HBM3",
    "h100-pcie": "NVIDIA H100 PCIe",
    "h200": "NVIDIA H200",
    "b200": "NVIDIA B200",
    "l4": "NVIDIA L4",
    "l40s": "NVIDIA L40S",
    "rtx-4090": "NVIDIA GeForce RTX 4090",
    "mi300x": "AMD Instinct MI300X",
}


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_a_plan_and_the_training_itself_know_the_same_peak(name):
    assert peak_flops(NAMES[name]) == pytest.approx(DEVICES[name].bf16, rel=1e-3)


def test_a_plan_counts_as_many_logits_at_once_as_the_loss_makes():
    assert LOGIT_ROWS == ROWS
