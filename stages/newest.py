"""Ask where a source comes from for its newest revision; nothing is changed, and no stage depends on it.

python -m stages.newest SOURCE  ->  {"download": the section of SOURCE with its newest pins, "lock": its entry}, as JSON
"""

import argparse
import json
from typing import Any

from stages.download.kinds import ask
from stages.download.package import look_for
from stages.download.params import DownloadParams, FilesParams, PackageParams, download_params
from stages.locked import entry, known_source
from stages.process import run


def newest(source: str) -> dict[str, Any]:
    """The download section of `source` as it would pin what is there now, and the entry for sources.lock.

    Keys that weren't given stay so.

    Raises:
        Refusal: if the index, or a file, can't be reached.
    """
    given = download_params(source)
    params = _without_expectations(_newer(given))
    locked = ask(params, source, known_source(source), trusting=True)
    section = given.model_dump(mode="json", exclude_unset=True)
    digests = {file.name: file.sha256 for file in locked.files}
    if isinstance(given, FilesParams) and given.sha256:
        section["sha256"] = digests
    if isinstance(given, PackageParams) and isinstance(params, PackageParams):
        for old, package in zip(section["packages"], params.packages, strict=True):
            old["version"] = package.version
            if "sha256" in old:
                old["sha256"] = digests[f"{package.name}.whl"]
    return {"download": section, "lock": entry(locked)}


def _newer(params: DownloadParams) -> DownloadParams:
    """`params` with the newest version of each package, never older than the pinned one."""
    if not isinstance(params, PackageParams):
        return params
    packages = tuple(
        package.model_copy(update={"version": look_for(package, newer=True)["version"]}) for package in params.packages
    )
    return params.model_copy(update={"packages": packages})


def _without_expectations(params: DownloadParams) -> DownloadParams:
    """`params` without the digests of what is there now, which the newest may not have."""
    match params:
        case FilesParams():
            return params.model_copy(update={"sha256": {}})
        case PackageParams():
            packages = tuple(package.model_copy(update={"sha256": None}) for package in params.packages)
            return params.model_copy(update={"packages": packages})
        case _:
            return params


def main() -> None:
    """Print the newest pins of the source named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="a name under `sources` in params.yaml")
    print(json.dumps(newest(parser.parse_args().source), indent=2))


if __name__ == "__main__":
    run(main)
