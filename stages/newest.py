"""Ask where a source comes from for its newest revision; nothing is changed, and no stage depends on it.

python -m stages.newest SOURCE  ->  the `download` section of SOURCE with its newest pins, as JSON on stdout
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from stages.documents import publish
from stages.download import (
    NAMED_HOST,
    NETWORK_TROUBLE,
    FilesParams,
    Interrupted,
    Package,
    by_name,
    digest_of,
    download_params,
    expand,
    fetch,
    kept,
    patiently,
    wheel_tags,
)
from stages.params import Refusal
from stages.process import run


def newest(source: str) -> dict[str, Any]:
    """The download section of `source` as it would pin what is there now; keys that weren't given stay so.

    Raises:
        Refusal: if the index, or a file, can't be reached.
    """
    params = download_params(source)
    section = params.model_dump(mode="json", exclude_unset=True)
    if isinstance(params, FilesParams):
        return section | {"sha256": newest_files(source, params)} if params.sha256 else section
    pins = [patiently(lambda each=each: newest_wheel(each), each.name) for each in params.packages]  # type: ignore[misc]
    return section | {"packages": [old | pin for old, pin in zip(section["packages"], pins, strict=True)]}


def newest_wheel(package: Package) -> dict[str, str]:
    """Version and sha256 of the newest wheel that fits `package`, never older than the pinned one. pip only looks.

    Raises:
        Interrupted: if the index couldn't be reached.
        Refusal: if it was reached, and has none.
    """
    command = [sys.executable, "-m", "pip", "install", "-vv", "--disable-pip-version-check", "--no-input", "--dry-run"]
    command += ["--ignore-installed", "--no-deps", "--only-binary=:all:", *wheel_tags(package)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--target", folder, "--report", str(report)]  # nothing comes into the target
        done = subprocess.run(
            [*command, *options, f"{package.name}>={package.version}"],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if done.returncode:
            raise _why(package, done.stdout + done.stderr)
        [found] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        "version": found["metadata"]["version"],
        "sha256": _sha256(found["download_info"]["archive_info"]),
    }


def _sha256(archive: dict[str, Any]) -> str:
    """The digest of the file that pip's report describes; before pip 23.1 it stood in `hash` alone."""
    return str(archive["hashes"]["sha256"] if "hashes" in archive else archive["hash"].removeprefix("sha256="))


def newest_files(source: str, params: FilesParams) -> dict[str, str]:
    """The sha256 of each file that the URLs and globs of `source` mean now, by file name."""
    digests = {}
    for name, url in by_name([url for given in params.urls for url in expand(given)]).items():
        fetched = patiently(lambda url=url: fetch(url, source), url)  # type: ignore[misc]
        digests[name] = digest_of(fetched)
        publish(fetched, kept(digests[name]))  # where the download stage looks first
    return digests


def _why(package: Package, said: str) -> Exception:
    if NETWORK_TROUBLE.search(said):
        named = NAMED_HOST.search(said)
        where = f" at {named[1]}:{named[2]}" if named else ""
        return Interrupted(f"the package index{where} can't be reached; check the network and `pip config list`")
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    return Refusal(f"{package.name}: the index has no wheel from {package.version} on ({(errors or ['no reason'])[0]})")


def main() -> None:
    """Print the newest pins of the source named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="a name under `sources` in params.yaml")
    print(json.dumps(newest(parser.parse_args().source), indent=2))


if __name__ == "__main__":
    run(main)
