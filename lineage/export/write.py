"""The exports as files: `pedigree export KIND`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lineage.export.facts import Facts, read_facts
from stages.params import Refusal

FOLDER = Path("exports")
FILES = {
    "openlineage": "openlineage.ndjson",
    "cyclonedx": "bom.cdx.json",
    "croissant": "croissant.json",
    "dataset-card": "dataset-card.md",
    "eu-summary": "eu-summary.md",
}
ALL = "all"


def export(
    kind: str, out: Path = FOLDER, root: Path = Path(), revision: str | None = None, tell: Callable[[str], None] = print
) -> list[Path]:
    """Write the export `kind`, or all of them, of a build into the folder `out`; the files that were written.

    `tell` hears what had to be left out.

    Raises:
        Refusal: if there is no such build, or the folder can't be written.
    """
    facts = read_facts(root, revision)
    kinds = list(FILES) if kind == ALL else [kind]
    written = []
    for each in kinds:
        text = render(each, facts, way_back(root, out), tell)
        if text:
            written.append(_write(out / FILES[each], text))
    return written


def render(kind: str, facts: Facts, folder: str, tell: Callable[[str], None]) -> str:
    """The text of the export `kind`; empty if there is nothing to say. `folder` leads to the project."""
    # Each loads its own libraries, and only when it is asked for.
    match kind:
        case "openlineage":
            from lineage.export import openlineage

            if untold := openlineage.untold(facts):
                which = "any stage" if len(untold) == len(facts.build.stages) else ", ".join(untold)
                tell(
                    f"openlineage: no record says when {which} ran; an event has a time, so theirs are left out "
                    f"(`pedigree run` leaves records)"
                )
            return openlineage.as_lines(facts)
        case "cyclonedx":
            from lineage.export.cyclonedx import bill

            return _json(bill(facts))
        case "croissant":
            from lineage.export.croissant import description

            return _json(description(facts, folder))
        case "dataset-card":
            from lineage.export import dataset_card

            return dataset_card.as_markdown(facts)
        case "eu-summary":
            from lineage.export import eu_summary

            return eu_summary.as_markdown(facts)
    raise Refusal(f"there is no export {kind}; name one of {', '.join([*FILES, ALL])}")


def way_back(root: Path, out: Path) -> str:
    """The relative path from the folder `out` to the project; "." where it lies elsewhere, so that none is told."""
    root, out = root.resolve(), out.resolve()
    if not out.is_relative_to(root) or out == root:
        return "."
    return "/".join([".."] * len(out.relative_to(root).parts))


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refusal(f"{path} can't be written ({error.strerror}); name another folder with --out") from None
    return path
