"""When and where the state of a training is kept: copied between two steps, written while the next ones are made."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from stages.params import Refusal
from stages.pretrain import checkpoint
from stages.pretrain.model import architecture, write_weights
from stages.pretrain.state import State, share_of, snapshot, whole_weights
from stages.pretrain.trainer import Trainer
from stages.pretrain.trunk import Trunk
from stages.pretrain.writer import Writer
from stages.settings import settings

if TYPE_CHECKING:
    from stages.pretrain.remote import Remote


class Saver:
    """Keeps the checkpoints of `trainer` in `scratch`, one for other budgets in `trunk`, and has `remote` send them on.

    At most one is being written at any time. All processes must call the same methods after the same steps; those
    that have nothing to write take part in what it takes to put the weights together.

    Raises:
        Refusal: if the processes have slices to write, and don't see one folder.
    """

    def __init__(self, trainer: Trainer, scratch: Path, trunk: Trunk, remote: "Remote | None") -> None:
        self.trainer, self.scratch, self.trunk, self.remote = trainer, scratch, trunk, remote
        self.is_main = trainer.accelerator.is_main_process
        self.share = share_of(trainer.model, trainer.accelerator.process_index)
        self.kept = settings().kept_checkpoints
        self._writer = Writer()
        if self.is_main:
            checkpoint.sweep(scratch)
        elif self.share and not self.share.gathered and not (scratch / checkpoint.LEASE).is_file():
            raise Refusal(
                f"{scratch} of this process is not that of the first one; let PEDIGREE_SCRATCH be a folder that all "
                f"nodes see, as each process writes its slice of the checkpoints into it, or unset PEDIGREE_PARALLEL"
            )

    @property
    def idle_seconds(self) -> float:
        """How long the first process has written nothing; 0 while it does, and in the others."""
        return self._writer.idle_seconds if self.is_main else 0.0

    def save(self) -> None:
        """Keep the state after the steps so far, to go on from."""
        if self.share:
            wanted = self.is_main or not self.share.gathered
            state = snapshot(self.trainer.model, self.trainer.optimizers, self.trainer.steps, self.share, wanted)
            if wanted:
                self._writer.write(partial(self._save, state))

    def publish(self) -> None:
        """Keep the weights after the steps so far, which become models/checkpoints at the end."""
        weights = whole_weights(self.trainer.model, self.is_main)
        if self.is_main:
            folder = checkpoint.step_folder(self.scratch / "published", len(self.trainer.steps))
            self._writer.write(partial(checkpoint.publish_folder, folder, partial(self._write_weights, weights)))

    def wait(self) -> None:
        """Wait for what is being written."""
        self._writer.wait()

    def _save(self, state: State) -> None:
        remote = self.remote
        folder = checkpoint.save(self.scratch, state, self.kept, lambda: remote.in_use if remote else ())
        if folder:
            self.trunk.keep(folder)
        if remote and folder:
            remote.send(folder)

    def _write_weights(self, weights: dict[str, Tensor], folder: Path) -> None:
        write_weights(weights, architecture(self.trainer.model), self.trainer.config, folder)
