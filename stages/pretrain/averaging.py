"""The mean of several checkpoints' weights, which is often a better model than the last of them.

Averaging along one training: Izmailov et al. 2018, arXiv:1803.05407; of language models in pretraining, Sanyal et al.
2023, arXiv:2306.03241.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor


def average(folders: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the weights in `folders` (model.safetensors), summed in float64, in their own dtypes and shapes.

    The sum is made in the order of `folders`, tensor by tensor, so equal weights make equal bytes.
    """
    with ExitStack() as open_files:
        files = [open_files.enter_context(safe_open(folder / "model.safetensors", "pt")) for folder in folders]
        mean = {}
        for name in files[0].keys():  # noqa: SIM118 - it is no mapping
            tensors = [file.get_tensor(name) for file in files]
            total = torch.zeros(tensors[0].shape, dtype=torch.float64)
            for tensor in tensors:
                total += tensor
            mean[name] = (total / len(tensors)).to(tensors[0].dtype)
        return mean
