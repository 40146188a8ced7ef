"""Wheels of a package index. A wheel is fetched as a file: it is never installed, and nothing in it is run."""

import json
import logging
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from urllib.parse import urlencode

from stages.download.params import Package, PackageParams
from stages.download.scratch import digest_of, is_kept, keep, kept, place
from stages.locked import Locked, LockedFile, difference, drifted
from stages.params import Refusal
from stages.remote import Interrupted, patiently
from stages.settings import settings

log = logging.getLogger("pedigree")

# What pip says (it has one exit code for everything) when the trouble is on the way to the index.
NETWORK_TROUBLE = re.compile(
    r"connection error|connection broken|Max retries exceeded|NewConnectionError|NameResolutionError|"
    r"ProxyError|SSLError|[Tt]imed? ?out|IncompleteRead|IncompleteDownload|Connection aborted|"
    r"\b(?:429|5\d\d) (?:Client|Server) Error"
)
NAMED_HOST = re.compile(r"host='([^']+)', port=(\d+)")


def ask(params: PackageParams, before: Locked | None) -> Locked:
    """The wheels that `params` name; one that is in the index as it was locked isn't fetched again.

    Raises:
        Refusal: if the index can't be reached or lacks a wheel, or its digest is not the expected one.
    """
    known = {file.url: file for file in before.files} if before else {}
    files = []
    for package in _packages(params):
        locked = known.get(url_of(package))
        same = locked and locked.sha256 == look_for(package)["sha256"]
        files.append(locked if locked and same else _fetched(package))
    _refuse_unexpected(params, files)
    return Locked(kind="package", files=tuple(files))


def fill(params: PackageParams, source: str, locked: Locked, folder: Path) -> None:
    """Put the locked wheels into `folder`, without the versions in their names.

    So the documents keep their ids when the version changes.

    Raises:
        Refusal: if the index can't be reached or lacks a wheel, or one is not what was locked.
    """
    pinned = {file_name(package): package for package in _packages(params)}
    _refuse_other_pins(source, pinned, locked)
    _refuse_unexpected(params, list(locked.files))
    for file in locked.files:
        if not (file.sha256 and is_kept(file.sha256)):
            found = _fetched(pinned[file.name])
            if differs := difference(file, found):
                raise drifted(source, differs)
        place(kept(file.sha256 or ""), folder / file.name)


def file_name(package: Package) -> str:
    """What the wheel of `package` is saved as."""
    return f"{package.name}.whl"


def url_of(package: Package) -> str:
    """The package URL of the wheel, with what else chooses it."""
    chosen = {"platform": package.platform, "python": package.python}
    if package.platform is None:
        chosen = {} if package.python == Package.model_fields["python"].default else {"python": package.python}
    return f"pkg:pypi/{package.name.lower()}@{package.version}{'?' if chosen else ''}{urlencode(chosen)}"


def _packages(params: PackageParams) -> tuple[Package, ...]:
    """The packages, sorted as their files are."""
    names = Counter(package.name for package in params.packages)
    if twice := [name for name, times in names.items() if times > 1]:
        raise Refusal(f"package {twice[0]} is named twice; a source holds one version of a package")
    return tuple(sorted(params.packages, key=file_name))


def _refuse_other_pins(source: str, pinned: dict[str, Package], locked: Locked) -> None:
    known = locked.by_name()
    phrases = [f"{name} is new" for name in sorted(pinned.keys() - known)]
    phrases += [f"{name} is gone" for name in sorted(known.keys() - pinned)]
    for name in sorted(pinned.keys() & known):
        if known[name].url != (url := url_of(pinned[name])):
            phrases.append(f"{name} is {url} (locked: {known[name].url})")
    if phrases:
        raise drifted(source, phrases)


def _refuse_unexpected(params: PackageParams, files: list[LockedFile]) -> None:
    """Refuse a wheel with another digest than params.yaml expects."""
    found = {file.name: file.sha256 for file in files}
    for package in params.packages:
        if package.sha256 and package.sha256 != (sha256 := found.get(file_name(package))):
            raise Refusal(
                f"{_pin(package)}: the wheel has sha256 {sha256}, expected in params.yaml is {package.sha256}; "
                f"if the new one is meant, correct it there, else mistrust the index"
            )


def _pin(package: Package) -> str:
    return f"{package.name}=={package.version}"


def _fetched(package: Package) -> LockedFile:
    """The wheel of `package`, which scratch keeps from now on."""
    scratch = settings().scratch_folder / "download"
    scratch.mkdir(parents=True, exist_ok=True)
    log.info("%s %s: downloading", package.name, package.version)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".wheel-") as folder:
        patiently(lambda: _pip_download(package, Path(folder)), _pin(package))
        [wheel] = Path(folder).glob("*.whl")
        size = wheel.stat().st_size
        if package.sha256 and package.sha256 != (found := digest_of(wheel)):
            _refuse_unexpected(
                PackageParams(kind="package", packages=(package,)),
                [LockedFile(name=file_name(package), bytes=size, sha256=found)],
            )
        return LockedFile(name=file_name(package), bytes=size, sha256=keep(wheel), url=url_of(package))


def _pip_download(package: Package, folder: Path) -> None:
    """Have pip fetch one wheel into `folder`; the user's index, mirror and proxy settings hold.

    Raises:
        Interrupted: if the index couldn't be reached.
        Refusal: if it was reached and has no such wheel.
    """
    command = [sys.executable, "-m", "pip", "download", "-vv", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", *wheel_tags(package), _pin(package)]
    done = subprocess.run(
        [*command, "--dest", str(folder)], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode == 0:
        return
    said = done.stdout + done.stderr
    # "(from versions: none)" stands for an index that lacks the package and for one out of reach, too.
    if NETWORK_TROUBLE.search(said):
        raise _unreachable(said)
    errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    reason = errors[0] if errors else (said.strip().splitlines() or ["no output"])[-1]
    raise Refusal(f"{_pin(package)}: pip can't download the wheel ({reason}); correct the pin")


def look_for(package: Package, newer: bool = False) -> dict[str, str]:
    """Version and sha256 of the wheel of `package`, or of the newest from its version on. pip only looks.

    Raises:
        Refusal: if the index can't be reached, or has none.
    """
    return patiently(lambda: _look_for(package, newer), package.name)


def _look_for(package: Package, newer: bool) -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "install", "-vv", "--disable-pip-version-check", "--no-input", "--dry-run"]
    command += ["--ignore-installed", "--no-deps", "--only-binary=:all:", *wheel_tags(package)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--target", folder, "--report", str(report)]  # nothing comes into the target
        done = subprocess.run(
            [*command, *options, f"{package.name}{'>=' if newer else '=='}{package.version}"],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if done.returncode:
            raise _why(package, done.stdout + done.stderr)
        [found] = json.loads(report.read_text(encoding="utf-8"))["install"]
    archive = found["download_info"]["archive_info"]
    # Before pip 23.1 the digest stood in `hash` alone.
    sha256 = archive["hashes"]["sha256"] if "hashes" in archive else archive["hash"].removeprefix("sha256=")
    return {"version": found["metadata"]["version"], "sha256": sha256}


def _why(package: Package, said: str) -> Exception:
    if NETWORK_TROUBLE.search(said):
        return _unreachable(said)
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    return Refusal(f"{package.name}: the index has no wheel from {package.version} on ({(errors or ['no reason'])[0]})")


def _unreachable(said: str) -> Interrupted:
    named = NAMED_HOST.search(said)
    where = f" at {named[1]}:{named[2]}" if named else ""
    return Interrupted(f"the package index{where} can't be reached; check the network and `pip config list`")


def wheel_tags(package: Package) -> list[str]:
    """The options that make pip choose the same wheel on every machine, by every Python."""
    if package.platform is None:
        tags = ["--platform", "any", "--implementation", "py", "--abi", "none"]
    else:
        tags = ["--platform", package.platform, "--implementation", "cp"]
    return [*tags, "--python-version", package.python]
