"""Where each file of data/tokenize lies in a DVC remote, so that pretrain reads tokens straight from there.

    dvc.lock, the lists of files among the remote's objects  ->  JSON on stdout

`python -m infra.store.streaming s3://BUCKET/PREFIX > tokens.json`, then PEDIGREE_TOKENS=tokens.json.
"""

import json
import sys
from pathlib import Path

import fsspec
import yaml

from infra.store.needed import files_of
from stages.params import Refusal
from stages.process import run

TOKENS = "data/tokenize/"


def token_map(lock: str, remote: str) -> dict[str, str]:
    """The URL of each token file, by `source/name`, of the build that the text of a dvc.lock describes.

    Raises:
        Refusal: if it has no tokens, or the remote hasn't.
    """
    stages = (yaml.safe_load(lock) or {}).get("stages", {})
    outs = [out for stage in stages.values() for out in stage.get("outs", []) if out["path"].startswith(TOKENS)]
    if not outs:
        raise Refusal("dvc.lock has no tokens; run `dvc repro` and `dvc push` where the corpus is made")
    places: dict[str, str] = {}
    for out in outs:
        url = object_url(remote, out["md5"])
        try:
            with fsspec.open(url, "rb") as file:
                listed = files_of(file.read())
        except FileNotFoundError:
            raise Refusal(f"{url} is missing, it lists the files of {out['path']}; run `dvc push` first") from None
        source = out["path"].removeprefix(TOKENS)
        places |= {f"{source}/{name}": object_url(remote, md5) for name, md5 in listed.items()}
    return places


def object_url(remote: str, md5: str) -> str:
    """Where the object with this digest is in a remote, as DVC 3 lays it out."""
    return f"{remote.rstrip('/')}/files/md5/{md5[:2]}/{md5[2:]}"


def main() -> None:
    """Print where each token file of this folder's dvc.lock is in the DVC remote at the URL that is given."""
    if len(sys.argv) != 2:
        raise Refusal("give the URL of the DVC remote, as in `python -m infra.store.streaming s3://BUCKET/PREFIX`")
    print(json.dumps(token_map(Path("dvc.lock").read_text(encoding="utf-8"), sys.argv[1]), indent=1))


if __name__ == "__main__":
    run(main)
