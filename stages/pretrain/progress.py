"""What one sees of a training while it runs."""

import time

from stages.pretrain.model import count_parameters
from stages.pretrain.optimizer import rate_factor
from stages.pretrain.trainer import Trainer
from stages.process import REPORT_EVERY_SECONDS, log


class Progress:
    """Says every few seconds where the training is, how fast, and how long it will take."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.first = trainer, len(trainer.steps)
        self.begin = self.said = time.monotonic()
        size = count_parameters(trainer.model)
        log.info(
            "pretrain: %.2fM parameters, %d steps of %d tokens",
            size / 1e6,
            trainer.params.steps,
            trainer.params.tokens_per_step,
        )

    def report(self, loss: float) -> None:
        """One line, if the last one is some seconds old."""
        params, now, done = self.trainer.params, time.monotonic(), len(self.trainer.steps)
        if now - self.said < REPORT_EVERY_SECONDS or not self.trainer.accelerator.is_main_process:
            return
        self.said = now
        rate = (done - self.first) * params.tokens_per_step / (now - self.begin)
        left = (params.steps - done) * params.tokens_per_step / rate
        log.info(
            "pretrain: step %d of %d, %.2fM tokens, loss %.3f, learning rate at %.0f%%, %.0f tokens/s, %.0f s left",
            done, params.steps, done * params.tokens_per_step / 1e6, loss,
            100 * rate_factor(done - 1, params.steps, params.schedule), rate, left,
        )  # fmt: skip
