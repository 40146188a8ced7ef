"""The pins of the sources: asked for anew, and written down.

What names a revision goes into params.yaml, where all else stays as people wrote it; what it is made of goes into
sources.lock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from flows.lock import ask_each, merged
from stages.locked import LOCK, lock_text, read_lock
from stages.params import read_params, source_names

PARAMS = "params.yaml"


@dataclass(frozen=True)
class Pins:
    """The newest of a source: its download section, and its entry in sources.lock."""

    download: dict[str, Any]
    lock: dict[str, Any]


def newest_pins(root: Path) -> tuple[dict[str, Pins], dict[str, str]]:
    """The newest pins of each source; and for each source that can't be asked, why."""
    answers = ask_each("stages.newest", source_names(root / PARAMS), root)
    pins = {name: Pins(**answer) for name, answer in answers.items() if not isinstance(answer, str)}
    return pins, {name: answer for name, answer in answers.items() if isinstance(answer, str)}


def changes(root: Path, pins: Mapping[str, Pins]) -> dict[str, Pins]:
    """Those of `pins` that differ from params.yaml, or from sources.lock."""
    sources, lock = read_params(root / PARAMS)["sources"], read_lock(root / LOCK)
    return {
        name: each
        for name, each in pins.items()
        if each.download != sources[name]["download"] or each.lock["digest"] != lock.get(name, {}).get("digest")
    }


class _Representer(RoundTripRepresenter):
    """Writes null as it is written in params.yaml, not as nothing."""


_Representer.add_representer(
    type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)


def with_entries(root: Path, pins: Mapping[str, Pins]) -> str:
    """The text of sources.lock with the entries of these sources."""
    entries = {name: each.lock for name, each in pins.items()}
    return lock_text(merged(read_lock(root / LOCK), entries, source_names(root / PARAMS)))


def with_pins(root: Path, sections: Mapping[str, Any]) -> str:
    """The text of params.yaml with these download sections, comments and order kept."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 1 << 16
    yaml.indent(mapping=2, sequence=4, offset=2)
    params = yaml.load((root / PARAMS).read_text(encoding="utf-8"))
    for name, section in sections.items():
        _merge(params["sources"][name]["download"], section)
    text = StringIO()
    yaml.dump(params, text)
    return text.getvalue()


def _merge(old: Any, new: Any) -> None:
    """Give a mapping or list of ruamel the values of `new`, in place, so that comments and style stay."""
    if isinstance(old, dict):
        for key in [key for key in old if key not in new]:
            del old[key]
        for key, value in new.items():
            _put(old, key, value)
    else:
        for number, value in enumerate(new):
            _put(old, number, value)


def _put(place: Any, key: Any, value: Any) -> None:
    is_new = isinstance(place, dict) and key not in place
    if not is_new and isinstance(value, dict | list):
        _merge(place[key], value)
    elif is_new or place[key] != value:
        place[key] = value
