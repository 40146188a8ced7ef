"""The mixture of params.yaml: what each source gives to the training, as a weight or as a number of epochs.

mixture, sizes of the sources, size of the whole  ->  shares that sum to 1
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Any

from stages.params import PARAMS_FILE, Refusal, read_params, source_names


@dataclass(frozen=True)
class Epochs:
    """How often a source is seen, whatever its size; the sources with weights share what such ones leave."""

    count: float


Mixture = Mapping[str, float | Epochs]
LARGEST = 1e100  # its products with sizes are finite


def load_mixture(path: Path = PARAMS_FILE) -> dict[str, float | Epochs]:
    """The mixture in `path`, as `parse_mixture` gives it.

    Raises:
        Refusal: if `mixture` doesn't give exactly the sources a positive weight or positive epochs.
    """
    given, names = read_params(path).get("mixture"), source_names(path)
    if not isinstance(given, dict) or set(given) != set(names):
        found = sorted(map(str, given)) if isinstance(given, dict) else given
        raise Refusal(
            f"{path}: mixture must give each of the sources {sorted(names)} a weight or epochs, it has {found}"
        )
    return parse_mixture(given, str(path))


def parse_mixture(given: Mapping[str, Any], where: str) -> dict[str, float | Epochs]:
    """The entries of the section `mixture` of `where`, in the order of their names; the weights sum to 1.

    Not in the order of params.yaml: DVC compares parameters without it, so nothing may depend on it.

    Raises:
        Refusal: if one is neither a positive number nor {epochs: a positive number}.
    """
    entries = {name: _entry(value, f"{where}: mixture.{name}") for name, value in given.items()}
    total = fsum(entry for entry in entries.values() if not isinstance(entry, Epochs))
    return {name: entry if isinstance(entry, Epochs) else entry / total for name, entry in sorted(entries.items())}


def _entry(value: Any, at: str) -> float | Epochs:
    if not isinstance(value, dict):
        return _positive(value, at, "a positive number, or {epochs: a positive number}")
    if list(value) != ["epochs"]:
        raise Refusal(f"{at} is {value!r}; give a weight, a positive number, or {{epochs: a positive number}}")
    return Epochs(_positive(value["epochs"], f"{at}.epochs", "a positive number"))


def _positive(value: Any, at: str, wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < LARGEST:
        raise Refusal(f"{at} is {value!r}; give {wanted}")
    return value


def in_epochs(mixture: Mixture) -> dict[str, float]:
    """The epochs of each source that has some; the sizes of these are needed for `shares`."""
    return {name: entry.count for name, entry in mixture.items() if isinstance(entry, Epochs)}


def shares(mixture: Mixture, sizes: Mapping[str, int], total: float, budget: str) -> dict[str, float]:
    """The share of each source in `total` tokens, by the names; they sum to 1.

    A source in epochs gets so many times its size, and those with weights divide what is left. If all are in epochs,
    these are proportions: `total` decides how often all of it is seen.

    Args:
        sizes: tokens of the sources in epochs; those of others aren't looked at.
        budget: the parameter that says `total`.

    Raises:
        Refusal: if the epochs leave nothing for the weights.
    """
    needs = {name: count * sizes[name] for name, count in in_epochs(mixture).items()}
    weights = {name: entry for name, entry in mixture.items() if not isinstance(entry, Epochs)}
    if not weights:
        whole = sum(needs.values()) or 1  # if all are empty, the sample order refuses them
        return {name: needs[name] / whole for name in sorted(needs)}
    if (left := total - sum(needs.values())) <= 0:
        raise Refusal(_too_much(needs, weights, total, budget))
    return {name: needs[name] / total if name in needs else weights[name] * (left / total) for name in sorted(mixture)}


def _too_much(needs: Mapping[str, float], others: Collection[str], total: float, budget: str) -> str:
    said = " and ".join(f"{name} {need:,.0f}" for name, need in needs.items())
    return (
        f"params.yaml: mixture: the epochs of {said} tokens leave nothing of the {total:,.0f} of {budget} for "
        f"{', '.join(others)}; lower the epochs, or raise {budget}"
    )
