"""The kinds of sources: what each is now, and how it is fetched."""

from pathlib import Path

from stages.download import crawl, files, hub, package, repository, synthetic
from stages.download.params import (
    CrawlParams,
    DownloadParams,
    FilesParams,
    GitParams,
    HubParams,
    PackageParams,
    SyntheticParams,
)
from stages.locked import Locked


def ask(params: DownloadParams, source: str, before: Locked | None, trusting: bool = False) -> Locked:
    """What `source` is now, to be locked; what is as it was `before` isn't read again.

    `trusting` takes what this stage makes of a revision to be what it made of it before.

    Raises:
        Refusal: if that can't be said.
    """
    made = before if trusting else None
    match params:
        case PackageParams():
            return package.ask(params, before)
        case FilesParams():
            return files.ask(params, source, before)
        case HubParams():
            return hub.ask(params, source, made)
        case GitParams():
            return repository.ask(params, source, made)
        case CrawlParams():
            return crawl.ask(params, source, before)
        case SyntheticParams():
            return synthetic.ask(params, source, made)


def fill(params: DownloadParams, source: str, locked: Locked, folder: Path) -> None:
    """Put the files of `source` into `folder`.

    Raises:
        Refusal: if they are not those that were locked, or can't be had.
    """
    match params:
        case PackageParams():
            package.fill(params, source, locked, folder)
        case FilesParams():
            files.fill(params, source, locked, folder)
        case HubParams():
            hub.fill(params, source, locked, folder)
        case GitParams():
            repository.fill(params, source, locked, folder)
        case CrawlParams():
            crawl.fill(params, source, locked, folder)
        case SyntheticParams():
            synthetic.fill(params, source, locked, folder)


def is_by_reference(params: DownloadParams) -> bool:
    """If nothing of the source is copied."""
    return getattr(params, "by_reference", False)
