"""The files of a build, as far as they are here.

Build, DVC's cache  ->  a folder laid out as a project, and a sentence for each out that is missing
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lineage.checkout import Missing, lay_out
from lineage.history import Build, Stage, text_at
from lineage.sources import source_names


@dataclass(frozen=True)
class Layout:
    """What is here of a build. A file that `missing` speaks of isn't in `folder`."""

    folder: Path
    missing: dict[str, str] = field(default_factory=dict)  # the sentence, by the path of the out


@contextmanager
def laid_out(root: Path, build: Build, wanted: Sequence[str]) -> Iterator[Layout]:
    """The outs of `build` at or below the paths `wanted`, with its dvc.yaml and params.yaml. Gone after the block."""
    outs = {path: out for stage in stages_of(build) for path, out in stage.outs.items()}
    with tempfile.TemporaryDirectory(prefix="pedigree-report-") as name:
        layout = Layout(Path(name))
        for path, out in outs.items():
            if any(PurePosixPath(path).is_relative_to(prefix) for prefix in wanted):
                try:
                    lay_out(root, build, out, layout.folder / path)
                except Missing as missing:
                    layout.missing[path] = str(missing)
        for committed in ("dvc.yaml", "params.yaml"):
            if text := text_at(root, build, committed):
                (layout.folder / committed).write_text(text, encoding="utf-8")
        yield layout


def stages_of(build: Build) -> list[Stage]:
    """The stages of `build`, without those that DVC keeps of sources which are gone."""
    sources = {"", *source_names(build)}
    return [stage for name, stage in build.stages.items() if name.partition("@")[2] in sources]
