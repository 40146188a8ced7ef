"""The energy that a GPU has taken, where NVML tells it."""

import torch


class EnergyMeter:
    """Joules that `device` has taken since this was made; None for a processor, or without NVML (nvidia-ml-py)."""

    def __init__(self, device: torch.device) -> None:
        self._counter = _Counter.of(device)
        self._begin = self._counter.joules() if self._counter else 0.0

    def joules(self) -> float | None:
        """Since the beginning."""
        return self._counter.joules() - self._begin if self._counter else None


class _Counter:
    """NVML's counter of a GPU, which runs since its driver was loaded (Volta and later)."""

    def __init__(self, nvml: object, handle: object) -> None:
        self._nvml, self._handle = nvml, handle

    @staticmethod
    def of(device: torch.device) -> "_Counter | None":
        if device.type != "cuda":
            return None
        try:
            import pynvml  # type: ignore[import-not-found, unused-ignore]

            pynvml.nvmlInit()
            # By its UUID: CUDA_VISIBLE_DEVICES gives devices other numbers than NVML.
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            counter = _Counter(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid))
            counter.joules()
        except Exception:  # not installed, no driver, no permission, an older GPU: then it isn't said
            return None
        return counter

    def joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000  # type: ignore[attr-defined]
