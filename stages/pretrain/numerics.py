"""Portable numerics: what tells the libraries below PyTorch to add in one order on every x86-64 processor with AVX2.

They choose their instructions, and with them the order of a sum, when they are loaded, by the processor that they
find; so the choice must stand in the environment before that.
"""

import os
import sys

from stages.params import Refusal
from stages.pretrain.params import PretrainParams

# ATen and oneDNN: the instructions of 2013. MKL: its conditional numerical reproducibility, in the only mode that its
# manual promises for processors of every maker. None of the three may take fewer threads than it is told.
PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_DYNAMIC": "FALSE",
    "OMP_DYNAMIC": "FALSE",
}


def pin(params: PretrainParams) -> None:
    """Start this process anew with the environment that `params` ask for, unless it has it.

    Raises:
        Refusal: if the machine can't compute so.
    """
    if params.numerics == "fast":
        return
    if any(os.environ.get(name) != value for name, value in PORTABLE.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | PORTABLE)
    import torch

    if not torch.cpu._is_avx2_supported():
        raise Refusal("params.yaml: pretrain.numerics is portable, which needs a processor with AVX2; set it to fast")
    if torch.cuda.is_available():
        raise Refusal(
            "params.yaml: pretrain.numerics is portable, which is for processors; set it to fast, or hide the GPU "
            "(CUDA_VISIBLE_DEVICES=)"
        )
