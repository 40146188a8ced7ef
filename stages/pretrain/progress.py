"""What one sees of a training while it runs."""

import time
from dataclasses import dataclass

from stages.pretrain.energy import EnergyMeter
from stages.pretrain.model import count_parameters, flops_per_token
from stages.pretrain.optimizer import rate_factor
from stages.pretrain.peaks import device_name, peak_flops, utilization
from stages.pretrain.trainer import Trainer
from stages.process import REPORT_EVERY_SECONDS, log


@dataclass(frozen=True)
class Seen:
    """Where a training is, and how fast."""

    step: int
    steps: int
    tokens: int
    loss: float
    learning_rate: float  # of the first group of parameters
    gradient_norm: float
    tokens_per_second: float
    data_wait: float  # share of the time
    seconds_left: float
    mfu: float | None  # share of the devices' peak
    joules: float | None  # of the first process's device

    def line(self) -> str:
        """All of it in one line."""
        parts = [
            f"step {self.step} of {self.steps}", f"{self.tokens / 1e6:.2f}M tokens", f"loss {self.loss:.3f}",
            f"learning rate {self.learning_rate:.2e}", f"gradient {self.gradient_norm:.2f}",
            f"{self.tokens_per_second:.0f} tokens/s", f"{self.data_wait:.1%} waiting for data",
            f"MFU {'n/a' if self.mfu is None else format(self.mfu, '.1%')}",
            *([] if self.joules is None else [f"{self.joules / 3.6e6:.3f} kWh on the first device"]),
            f"{self.seconds_left:.0f} s left",
        ]  # fmt: skip
        return ", ".join(parts)

    def numbers(self) -> dict[str, float]:
        """What a tracker draws, by name."""
        return {name: float(value) for name, value in vars(self).items() if value is not None and name != "step"}


class Progress:
    """Says every few seconds where the training is, how fast, and how long it will take."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.accelerator = trainer, trainer.accelerator
        self.said, self.done, self.waited = time.monotonic(), len(trainer.steps), trainer.waited
        self.flops = flops_per_token(trainer.model, trainer.config, trainer.params.sequence_length)
        self.peak = peak_flops(device_name(self.accelerator.device))
        self.energy = EnergyMeter(self.accelerator.device)
        log.info(
            "pretrain: %.2fM parameters, %d steps of %d tokens",
            count_parameters(trainer.model) / 1e6, trainer.params.steps, trainer.params.tokens_per_step,
        )  # fmt: skip

    def report(self) -> None:
        """One line, if the last one is some seconds old; trackers get the same."""
        now = time.monotonic()
        if now - self.said < REPORT_EVERY_SECONDS or not self.accelerator.is_main_process:
            return
        seen = self._see(now - self.said)
        self.said, self.done, self.waited = now, len(self.trainer.steps), self.trainer.waited
        log.info("pretrain: %s", seen.line())
        self.accelerator.log(seen.numbers(), step=seen.step)

    def _see(self, seconds: float) -> Seen:
        """What became of the last `seconds`."""
        trainer, params = self.trainer, self.trainer.params
        done, group = len(trainer.steps), trainer.optimizers[0].param_groups[0]
        rate = (done - self.done) * params.tokens_per_step / seconds
        return Seen(
            step=done,
            steps=params.steps,
            tokens=done * params.tokens_per_step,
            loss=trainer.steps[-1].loss,
            learning_rate=group["peak"] * rate_factor(done - 1, params.steps, params.schedule),
            gradient_norm=trainer.steps[-1].gradient_norm,
            tokens_per_second=rate,
            data_wait=(trainer.waited - self.waited) / seconds,
            seconds_left=(params.steps - done) * params.tokens_per_step / rate,
            mfu=utilization(self.flops * rate, self.peak, self.accelerator.num_processes),
            joules=self.energy.joules(),
        )
