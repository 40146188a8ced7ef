"""A profile of some steps, as a trace that chrome://tracing and Perfetto draw."""

import re
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from stages.params import Refusal
from stages.process import log


def read_window(text: str) -> range:
    """The steps that PEDIGREE_PROFILE names as `10:20`: from 10 to 19, counted from 0; none if it is empty.

    Raises:
        Refusal: if it names no steps.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    window = range(int(match[1]), int(match[2])) if match else range(0)
    if text and not window:
        raise Refusal(f"environment variable PEDIGREE_PROFILE: {text!r} is no range of steps; write it as 10:20")
    return window


class Profiler:
    """Profiles the steps of `window`, and writes the trace of this process into `folder`."""

    def __init__(self, window: range, folder: Path, rank: int) -> None:
        self.window = window
        self.path = folder / f"profile-{rank}.json"
        self._profile: profile | None = None

    def before_step(self, step: int) -> None:
        """Begin, if `step` is the first of the window."""
        if self.window and step == self.window.start:
            cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._profile = profile(activities=[ProfilerActivity.CPU, *cuda])
            self._profile.start()

    def after_step(self, step: int, last: bool) -> None:
        """End and write, if `step` is the last of the window, or of the training."""
        if self._profile and (last or step == self.window[-1]):
            self._profile.stop()
            self._profile.export_chrome_trace(str(self.path))
            log.info("pretrain: profile in %s", self.path)
            self._profile = None
