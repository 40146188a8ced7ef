"""The sources of a build, as its dvc.lock has them, and the other names that they have in other builds."""

from collections import Counter
from collections.abc import Iterable, Mapping

from lineage.history import Build

DOWNLOAD, EXTRACT = "data/download", "data/extract"


def source_names(build: Build) -> list[str]:
    """The sources of which `build` has documents: those that its model was trained on, if it has one.

    DVC leaves a stage in dvc.lock when its source is taken out of params.yaml; the mixture knows better.
    """
    names = list(digests(build))
    trained = build.stages.get("pretrain")
    mixture = trained.params.get("mixture") if trained else None
    return [name for name in names if name in mixture] if isinstance(mixture, Mapping) else names


def digests(build: Build) -> dict[str, str]:
    """By the name of each source, the digest of its files; of its documents where builds don't have the files."""
    outs = build.outs
    kind = DOWNLOAD if any(path.startswith(f"{DOWNLOAD}/") for path in outs) else EXTRACT
    return {path.rpartition("/")[2]: out.md5 for path, out in outs.items() if path.startswith(f"{kind}/")}


def renamed(builds: Iterable[Build]) -> dict[str, set[str]]:
    """By the name of a source, the other names that its files have in other builds.

    Two sources of one build that have the same files are two sources.
    """
    names: dict[str, set[str]] = {}  # by digest
    apart: set[tuple[str, str]] = set()
    for build in builds:
        every = digests(build)
        own = {name: every[name] for name in source_names(build)}
        for name, md5 in own.items():
            names.setdefault(md5, set()).add(name)
        counts = Counter(own.values())
        twice = [name for name, md5 in own.items() if counts[md5] > 1]
        apart |= {(one, other) for one in twice for other in twice}
    found: dict[str, set[str]] = {}
    for group in names.values():
        for name in group:
            found.setdefault(name, set()).update(
                other for other in group if other != name and (name, other) not in apart
            )
    return found
