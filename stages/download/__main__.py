"""Fetch the files of a source, as they are, each compared with its digest in sources.lock.

    package index, file system, hub, repository, crawl or language model  ->  data/download/SOURCE

What was fetched whole stays in scratch, and so does a part, so that a broken download goes on from there. A source
that is taken by reference leaves its manifest alone, and extract reads at the URLs that it lists.
"""

import argparse
from pathlib import Path
from typing import Any

from stages.documents import MANIFEST, describe, fresh_folder, write_json
from stages.download.kinds import fill, is_by_reference
from stages.download.params import download_params
from stages.locked import Locked, locked_source
from stages.process import run


def manifest(locked: Locked, folder: Path, by_reference: bool) -> dict[str, Any]:
    """The manifest of the downloaded files in `folder`, and what each document of the source has from it."""
    about: dict[str, Any] = {"license": locked.license, "revision": locked.revision}
    about |= {"synthetic": True, "model": locked.files[0].url} if locked.kind == "synthetic" else {}
    about = {key: value for key, value in about.items() if value is not None}
    listed = [file.model_dump(exclude_none=True, exclude={"name"}) | {"path": file.name} for file in locked.files]
    return {
        "counts": {"files": len(locked.files)},
        "shards": [] if by_reference else [describe(folder / file.name) for file in locked.files],
        **({"references": listed} if by_reference else {}),
        **({"about": about} if about else {}),
    }


def main() -> None:
    """Fetch the source named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="a name under `sources` in params.yaml")
    source = parser.parse_args().source
    params = download_params(source)
    locked = locked_source(source)
    folder = fresh_folder(Path("data/download") / source)
    fill(params, source, locked, folder)
    write_json(folder / MANIFEST, manifest(locked, folder, is_by_reference(params)))


if __name__ == "__main__":
    run(main)
