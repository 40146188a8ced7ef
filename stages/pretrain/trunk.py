"""What trainings of several budgets share: their way until the learning rate begins to fall.

    scratch/trunks/<digest of the inputs without the budget>/step-00000032/  published/step-00000020/

Under `wsd` the rate is a function of the step alone until then, and so are the samples. One trunk serves many
budgets (Hu et al. 2024, arXiv:2404.06395, section 4): a training begins from the newest state on its own way.
"""

import os
import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.order import Order
from stages.pretrain.checkpoint import checkpoints, damaged, publish_folder, step_of
from stages.pretrain.params import PretrainParams
from stages.process import log

PUBLISHED = "published"


@dataclass(frozen=True)
class Trunk:
    """The shared way in `folder`; this training leaves it after `step` steps, 0 if it shares none."""

    folder: Path
    step: int

    def keep(self, checkpoint: Path) -> None:
        """Keep `checkpoint`, and what was published before it, if it is where this training leaves."""
        if self.step and step_of(checkpoint.name) == self.step:
            _link(checkpoint, self.folder)

    def give(self, scratch: Path) -> None:
        """Let a training that has no checkpoints in `scratch` begin from the newest that is on its way."""
        if checkpoints(scratch):
            return
        for folder in checkpoints(self.folder):
            if step_of(folder.name) <= self.step and not damaged(folder):
                _link(folder, scratch)
                log.info("pretrain: begins from what another budget has reached, %s", folder)
                return


def trunk_step(params: PretrainParams) -> int:
    """After how many steps the learning rate begins to depend on the budget; 0 if it always does."""
    if params.schedule.shape != "wsd":
        return 0
    return params.steps - max(1, round(params.steps * params.schedule.decay))


def trunk_sections(pretrain: Mapping[str, Any], order: Order) -> dict[str, Any]:
    """What a trunk depends on: the section `pretrain` of params.yaml but for the budget, and the shares of the sources.

    Not the mixture: where a source is in epochs, the budget may have made other shares of it.
    """
    rest = deepcopy(dict(pretrain))
    for name in ("tokens", "average_last"):
        rest.pop(name, None)
    for name in ("decay", "final"):
        rest["schedule"].pop(name, None)
    return {"pretrain": rest, "mixture": dict(order.mixture)}


def _link(checkpoint: Path, parent: Path) -> None:
    """Have the files of `checkpoint` in `parent` too, and those published up to its step; they take no more room."""
    for folder in checkpoints(checkpoint.parent / PUBLISHED)[::-1]:
        if step_of(folder.name) <= step_of(checkpoint.name):
            _publish(folder, parent / PUBLISHED / folder.name)
    _publish(checkpoint, parent / checkpoint.name)


def _publish(source: Path, target: Path) -> None:
    def write(partial: Path) -> None:
        shutil.copytree(source, partial, copy_function=os.link, dirs_exist_ok=True)

    if not target.exists():
        publish_folder(target, write)
