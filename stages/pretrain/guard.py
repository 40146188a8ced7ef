"""Steps that are skipped: their loss or gradient isn't finite, or stands out from those before.

After OLMo-core's SkipStepOptimizer: six standard deviations above the mean of the last 128 steps. The verdict is a
function of the history alone, so a resumed run and a rebuild skip the same steps.
"""

import math
from collections.abc import Callable, Sequence
from itertools import islice

from stages.params import Refusal
from stages.pretrain.history import Step
from stages.pretrain.params import GuardParams

LISTED = 50  # documents that a refusal names


def stands_out(step: Step, before: Sequence[Step], guard: GuardParams | None) -> bool:
    """Whether `step`, which follows the steps `before`, must not change the weights.

    Until half a window of steps has been accepted, only what isn't finite stands out. Without a guard nothing does.
    """
    if guard is None:
        return False
    if not is_finite(step):
        return True
    accepted = list(islice((each for each in reversed(before) if not each.skipped), guard.window))
    if len(accepted) < max(2, guard.window // 2):
        return False
    return (
        step.loss > _bound([each.loss for each in accepted], guard.sigma)
        or step.gradient_norm > _bound([each.gradient_norm for each in accepted], guard.sigma)
    )  # fmt: skip


def is_finite(step: Step) -> bool:
    """Whether loss and gradient are numbers."""
    return math.isfinite(step.loss) and math.isfinite(step.gradient_norm)


def _bound(values: Sequence[float], sigma: float) -> float:
    """Mean plus `sigma` standard deviations. math.fsum is exact, so it is the same on every machine."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean + sigma * math.sqrt(variance)


def check(steps: Sequence[Step], guard: GuardParams | None, documents: Callable[[int], list[str]]) -> None:
    """Stop a training that can't be saved by skipping. `documents` gives the ids that a step (from 0) trained on.

    Raises:
        Refusal: if more steps were skipped within a window than the guard lets pass; or, without a guard, if the
            last step isn't finite. It names the documents of the bad steps.
    """
    remedy = "lower pretrain.optimizer.learning_rate or pretrain.gradient_clip in params.yaml"
    if guard is None:
        if not is_finite(steps[-1]):
            raise Refusal(
                f"pretrain: the loss of step {len(steps)} is {steps[-1].loss}, its gradient's norm "
                f"{steps[-1].gradient_norm}; {remedy}; {_named([len(steps) - 1], documents)}"
            )
        return
    first = max(0, len(steps) - guard.window)
    skipped = [number for number in range(first, len(steps)) if steps[number].skipped]
    if steps[-1].skipped and len(skipped) > guard.most:
        raise Refusal(
            f"pretrain: {len(skipped)} of the last {len(steps) - first} steps were skipped, as their loss or gradient "
            f"stands out, more than pretrain.guard.most ({guard.most}); look at their documents, or {remedy}; "
            f"{_named(skipped, documents)}"
        )


def _named(numbers: Sequence[int], documents: Callable[[int], list[str]]) -> str:
    """The steps `numbers` (said from 1, as in plots/loss.csv) with their documents, as many as a sentence bears."""
    left, parts = LISTED, []
    for number in numbers:
        ids = documents(number)
        more = f" and {len(ids) - left} more" if len(ids) > left else ""
        parts.append(
            f"step {number + 1} had {', '.join(ids[:left]) or 'documents that have no names on this machine'}{more}"
        )
        left = max(0, left - len(ids))
    return "; ".join(parts)
