"""The pins of the sources: asked for anew, and written into params.yaml, where all else stays as people wrote it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from flows.limits import NETWORK_SLOTS
from stages.params import read_params, source_names

PARAMS = "params.yaml"


def newest_pins(root: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The download section of each source with its newest pins; and for each source that can't be asked, why."""
    names = source_names(root / PARAMS)
    with ThreadPoolExecutor(NETWORK_SLOTS) as pool:
        answers = dict(zip(names, pool.map(lambda name: _newest(name, root), names), strict=True))
    sections = {name: answer for name, answer in answers.items() if not isinstance(answer, str)}
    return sections, {name: answer for name, answer in answers.items() if isinstance(answer, str)}


def changes(root: Path, sections: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `sections` that differ from params.yaml."""
    sources = read_params(root / PARAMS)["sources"]
    return {name: section for name, section in sections.items() if section != sources[name]["download"]}


class _Representer(RoundTripRepresenter):
    """Writes null as it is written in params.yaml, not as nothing."""


_Representer.add_representer(
    type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)


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


def _newest(name: str, root: Path) -> Any:
    """The section of one source, or the sentence that says why it isn't known."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "stages.newest", name], cwd=root, env=environment, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        return said[-1].removeprefix("error: ")
    return json.loads(done.stdout)
