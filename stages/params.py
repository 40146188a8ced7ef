"""The typed parameters: one frozen model per stage, read from its section of params.yaml."""

from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

PARAMS_FILE = Path("params.yaml")


class Refusal(ValueError):
    """What a user, a file or a parameter caused: one sentence that says what, where and how to mend it.

    A stage that raises it ends with exit code 2 and without a traceback.
    """


class StageParams(BaseModel):
    """Base of every stage's parameters: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    moved: ClassVar[dict[str, str]] = {}  # names that stood here once, and the full names that they have now


P = TypeVar("P", bound=StageParams)


def read_params(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """The whole of `path` as plain values.

    Raises:
        Refusal: if the file is missing, isn't YAML, or isn't a mapping.
    """
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refusal(f"{path} is missing; run from the project's folder") from None
    except yaml.YAMLError as error:
        raise Refusal(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(params, dict):
        raise Refusal(f"{path} holds {type(params).__name__}, not a mapping of sections")
    return params


def load_params(model: type[P], section: str, path: Path = PARAMS_FILE) -> P:
    """Return `section` of `path` (dots lead inwards: `sources.web.filter`) as a `model`.

    Raises:
        Refusal: if `path` has no such section, or a key is unknown, missing, of the wrong
            type or out of range; it names the key in full, and the value.
    """
    values: Any = read_params(path)
    for depth, name in enumerate(section.split("."), start=1):
        if not isinstance(values, dict) or name not in values:
            missing = ".".join(section.split(".")[:depth])
            raise Refusal(f"{path}: section {missing} is missing; add it (empty is {{}})")
        values = values[name]
    return parse_params(model, values, f"{path}: {section}")


def parse_params(model: type[P], values: Any, where: str) -> P:
    """`values` as a `model`; a Refusal that starts with `where` and the key if they don't fit."""
    try:
        return model.model_validate({} if values is None else values)
    except ValidationError as error:
        raise Refusal("; ".join(_sentence(where, model, problem) for problem in error.errors())) from None


def source_names(path: Path = PARAMS_FILE) -> list[str]:
    """The names of all sources, in the order of params.yaml."""
    sources = read_params(path).get("sources")
    if not isinstance(sources, dict) or not sources:
        raise Refusal(f"{path}: sources must map at least one name to its sections")
    return list(sources)


def _sentence(where: str, model: type[StageParams], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    at = f"{where}.{key}" if key else where
    match problem["type"]:
        case "extra_forbidden":
            if key in model.moved:
                return f"{at} is {model.moved[key]} now; move it there"
            known = _known(model, problem["loc"])
            return f"{at} is not a parameter of this stage; remove it or correct its spelling{known}"
        case "missing":
            return f"{at} is missing; add it"
        case _:
            return f"{at} is {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _known(model: type[BaseModel], loc: tuple[Any, ...]) -> str:
    """The known names beside an unknown one, if it stands at the top of its section."""
    return f" (known: {', '.join(sorted(model.model_fields))})" if len(loc) == 1 else ""
