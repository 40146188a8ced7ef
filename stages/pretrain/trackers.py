"""Progress for those who watch it elsewhere: TensorBoard, Weights & Biases, MLflow, by Accelerate's trackers."""

from importlib.util import find_spec

from stages.params import Refusal, StageParams

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def read_trackers(text: str) -> list[str]:
    """The trackers that PEDIGREE_TRACKERS names, with commas between.

    Raises:
        Refusal: if one is unknown, or its package isn't installed.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PACKAGES:
            raise Refusal(
                f"environment variable PEDIGREE_TRACKERS: {name!r} is unknown; name some of {', '.join(PACKAGES)}"
            )
        if find_spec(PACKAGES[name]) is None:
            raise Refusal(
                f"environment variable PEDIGREE_TRACKERS names {name}, whose package isn't installed; "
                f"run `pip install {PACKAGES[name]}`, or take it out"
            )
    return names


def trackable(params: StageParams, prefix: str = "") -> dict[str, str | int | float | bool]:
    """`params` as one flat mapping, dots lead inwards: what every tracker can show."""
    flat: dict[str, str | int | float | bool] = {}
    for name, value in params:
        if isinstance(value, StageParams):
            flat |= trackable(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str | int | float) else str(value)
    return flat
