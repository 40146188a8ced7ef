"""The default DVC remote of a build: what a stage made is pushed when it is done, and all that is left at the end.

In an S3 store, the stage's own process does so (flows/exchange.py), under the lease by which no two clones run it at
once. Others can't hold a lease: there a long stage is pushed beside those that run, and short ones at the end.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from dvc.config import Config

from flows.settings import flow_settings
from flows.stage import Children, Ended, Stopped, Tell

# It is there from before a build changes anything until all was pushed.
MARK = Path(".dvc", "tmp", "pedigree-unpushed")


class Store:
    """Where the outs of a build go; without a default remote it does nothing."""

    def __init__(self, root: Path, children: Children, push: bool = True) -> None:
        self.root = root
        self.remote = default_remote(root)
        self.pushes = push and bool(self.remote)
        self._is_s3 = bool(self.remote and self.remote.startswith("s3://"))
        self._children = children
        self._mark = root / MARK
        # One upload beside the running stages, which don't wait for it.
        self._uploads = ThreadPoolExecutor(1, "push")

    @property
    def unpushed(self) -> bool:
        """Whether something may be here that the remote lacks."""
        return self.pushes and self._mark.exists()

    def begin(self) -> None:
        """Remember that this build will have to be pushed, even if it is killed."""
        if self.remote:
            self._mark.parent.mkdir(parents=True, exist_ok=True)
            self._mark.touch()

    def take(self, ended: Ended, tell: Tell) -> None:
        """Upload what a long stage made, while others run; if that fails, the end of the build tries again."""
        if self._is_s3:
            return
        if self.pushes and ended.outcome == "ran" and ended.seconds > flow_settings().push_seconds:
            self._uploads.submit(self._upload, ended.stage, tell)

    def end(self, tell: Tell, trying: Callable[[Callable[[], None]], None]) -> None:
        """Upload all that the remote lacks, if there may be something; `trying` calls again what is worth it.

        Raises:
            StageRefused, StageFailed: why it isn't there. What was built stays.
        """
        self._uploads.shutdown()
        if self.unpushed:
            trying(partial(self._children.push, [], self.root, tell))
            self._mark.unlink(missing_ok=True)

    def stop(self) -> None:
        """Don't begin another upload; the one under way ends with the children of the build."""
        self._uploads.shutdown(wait=False, cancel_futures=True)

    def _upload(self, stage: str, tell: Tell) -> None:
        try:
            self._children.push([stage], self.root, tell)
        except Stopped:
            return
        except Exception as error:
            tell(f"not pushed yet: {error}")


def default_remote(root: Path) -> str | None:
    """The URL of the project's default remote, if it has one; nobody is asked for it."""
    config = Config(str((root / ".dvc").resolve()))
    name = config["core"].get("remote")
    return str(config["remote"].get(name, {}).get("url", name)) if name else None
