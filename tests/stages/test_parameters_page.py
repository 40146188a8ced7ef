"""docs/parameters.md says what the models of the parameters have, word for word."""

import json
import types
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic_core import PydanticUndefined

from flows.check import SOURCE_MODELS, STAGE_MODELS
from stages.download.params import DownloadParams
from stages.params import StageParams

PAGE = Path(__file__).parents[2] / "docs/parameters.md"
PLAIN = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", type(None): "`null`", Any: "any"}
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def named(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def kind_of(model):
    """What tells `model` from its alternatives: ", kind: files"; nothing if it has none."""
    for name in ("kind", "name"):
        field = model.model_fields.get(name)
        if field and get_origin(field.annotation) is Literal:
            return f", {name}: {get_args(field.annotation)[0]}"
    return ""


def models_in(annotation):
    """The models in a type, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, StageParams):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def walk(title, model, seen):
    """Fill `seen` with the title of `model` and of every model in it, in order."""
    seen.setdefault(model, title + kind_of(model))
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            if inner not in seen:
                walk(f"{title}.{name}{'[]' if get_origin(field.annotation) is tuple else ''}", inner, seen)


def titles():
    seen = {}
    for model in get_args(DownloadParams):
        walk("sources.NAME.download", model, seen)
    for section, path in SOURCE_MODELS.items():
        walk(f"sources.NAME.{section}", named(path), seen)
    for section, path in STAGE_MODELS.items():
        walk(section, named(path), seen)
    return seen


TITLES = titles()


def type_of(annotation):
    arguments = get_args(annotation)
    if annotation in PLAIN:
        return PLAIN[annotation]
    if annotation in TITLES:
        return f"section `{TITLES[annotation]}`"
    match get_origin(annotation):
        case origin if origin is Literal:
            return ", ".join(f"`{choice}`" for choice in arguments)
        case origin if origin is tuple:
            return f"list of {type_of(arguments[0])}"
        case origin if origin is dict:
            return f"map of {type_of(arguments[0])} to {type_of(arguments[1])}"
        case origin if origin in (Union, types.UnionType):
            return " or ".join(map(type_of, arguments))
    raise AssertionError(f"no words for {annotation}")


def default_of(field):
    if field.default is PydanticUndefined:
        return "required"
    value = field.default
    if isinstance(value, StageParams):
        changed = {key: each for key, each in value if each != type(value).model_fields[key].default}
        return f"`{json.dumps(changed)}`"
    return f"`{value:_}`" if type(value) is int else f"`{json.dumps(value)}`"


def number(value):
    power = value.bit_length() - 1 if isinstance(value, int) else 0
    return f"2^{power}" if power > 40 and value == 1 << power else f"{value:g}"


def range_of(field):
    words = []
    for each in field.metadata:
        words += [f"{word} {number(getattr(each, key))}" for key, word in BOUNDS.items() if hasattr(each, key)]
        if hasattr(each, "min_length"):
            words.append("not empty")
        if getattr(each, "pattern", None):
            words.append(f"`{each.pattern}`")
    return ", ".join(words)


def description_of(name, field):
    """What the model says; of a rule's threshold, which signal it bounds; of a section, its first sentence."""
    if field.description:
        return field.description
    if name.startswith(("min_", "max_")):
        return f"{'least' if name.startswith('min_') else 'greatest'} `{name[4:]}`"
    inner = models_in(field.annotation)
    return cleandoc(inner[0].__doc__).partition("\n")[0] if inner else ""


def block(model):
    """The heading of `model`, its docstring, and its table."""
    rows = [f"### `{TITLES[model]}`", "", cleandoc(model.__doc__), ""]
    rows += ["| parameter | type | default | range | what it says |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        cells = [f"`{name}`", type_of(field.annotation), default_of(field), range_of(field)]
        cells.append(description_of(name, field))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


@pytest.mark.parametrize("model", TITLES, ids=TITLES.values())
def test_the_page_has_the_table_of_every_model(model):
    wanted = block(model)

    assert wanted in PAGE.read_text(encoding="utf-8"), f"put this into {PAGE.name}:\n\n{wanted}"


@pytest.mark.parametrize("model", TITLES, ids=TITLES.values())
def test_every_parameter_says_what_it_is(model):
    for name, field in model.model_fields.items():
        assert description_of(name, field), f"{TITLES[model]}.{name} has no description"


def test_the_page_has_no_table_of_anything_else():
    headings = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("### ")]

    assert headings == [f"### `{title}`" for title in TITLES.values()]
