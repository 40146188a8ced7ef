"""The packages that are installed, beside requirements.lock: their versions, known vulnerabilities and licences."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import httpx
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from flows.licences import licence_of, trouble_with_package
from stages.params import Refusal

LOCK = Path("requirements.lock")
OSV = "https://api.osv.dev/v1/querybatch"
TIMEOUT_SECONDS = 30.0

# Vulnerabilities that don't concern us, each with the reason: {"GHSA-…": "only on Windows"}.
ACCEPTED: dict[str, str] = {}


class NotAsked(RuntimeError):
    """The database of vulnerabilities gave no answer: nothing is known, neither good nor bad."""


@dataclass(frozen=True)
class Locked:
    """A package at the version that requirements.lock names."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def read_lock(path: Path = LOCK) -> list[Locked]:
    """The packages that `path` names for a machine such as this one.

    Raises:
        Refusal: if it is missing, or a line of it isn't NAME==VERSION.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise Refusal(f"{path} is missing; restore it from git, or make it by `make lock`") from None
    return [locked for number, line in enumerate(lines, start=1) for locked in _locked(line, f"{path}:{number}")]


def differing(packages: list[Locked]) -> list[str]:
    """A sentence for each package that isn't installed, or in another version."""
    found = [(package, _installed(package.name)) for package in packages]
    return [
        f"{package} is locked, but {version or 'nothing'} is installed"
        for package, version in found
        if version != package.version
    ]


def vulnerable(packages: list[Locked], url: str = OSV) -> list[str]:
    """A sentence for each package with a known vulnerability that isn't accepted, by the OSV database.

    Raises:
        NotAsked: if it can't be reached, or answers something else.
    """
    queries = [{"package": {"name": each.name, "ecosystem": "PyPI"}, "version": each.version} for each in packages]
    try:
        answer = httpx.post(url, json={"queries": queries}, timeout=TIMEOUT_SECONDS)
        answer.raise_for_status()
        results = answer.json()["results"]
        found = [[known["id"] for known in result.get("vulns", [])] for result in results]
    except httpx.HTTPStatusError as error:
        raise NotAsked(f"not asked: the database answered {error.response.status_code}") from error
    except httpx.HTTPError as error:
        raise NotAsked(f"not asked: no network ({type(error).__name__})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotAsked("not asked: the answer of the database is in another format") from error
    if len(found) != len(packages):
        raise NotAsked(f"not asked: {len(found)} answers for {len(packages)} packages")
    pairs = zip(packages, found, strict=True)
    unaccepted = {package: [each for each in ids if each not in ACCEPTED] for package, ids in pairs}
    return [f"{package} has {', '.join(ids)}" for package, ids in unaccepted.items() if ids]


def unlicensed(packages: list[Locked]) -> list[str]:
    """A sentence for each installed package whose licence is not allowed, or unknown."""
    troubles = []
    for package in packages:
        try:
            licence = licence_of(distribution(package.name).metadata)
        except PackageNotFoundError:  # `differing` names it
            continue
        troubles.append(trouble_with_package(package.name, licence))
    return [trouble for trouble in troubles if trouble]


def _locked(line: str, place: str) -> Iterator[Locked]:
    text = line.partition("#")[0].strip()
    if not text:
        return
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise Refusal(f"{place}: {text!r} is not NAME==VERSION; make the file anew by `make lock`") from error
    versions = [one.version for one in requirement.specifier if one.operator == "=="]
    if len(versions) != 1:
        raise Refusal(f"{place}: {text!r} names no version; make the file anew by `make lock`")
    if not requirement.marker or requirement.marker.evaluate():
        yield Locked(canonicalize_name(requirement.name), versions[0])


def _installed(name: str) -> str | None:
    """Its version without what was built in (`2.13.0+cpu` is 2.13.0); None if it isn't there."""
    try:
        return distribution(name).version.partition("+")[0]
    except PackageNotFoundError:
        return None
