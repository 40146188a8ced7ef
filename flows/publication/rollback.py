"""Another version becomes the current one: a new assignment of the stage `prod`, and nothing else changes."""

from dataclasses import dataclass
from pathlib import Path

from flows.git import GitFailed, git, somebody_commits, upstream
from flows.lifetime.lease import building
from flows.publication.publish import ATTEMPTS, TELL, fetch
from flows.publication.versions import ARTIFACT, PROD, Version, assign, current, history, named, versions
from flows.stage import Tell
from stages.params import Refusal


@dataclass(frozen=True)
class Rollback:
    """Which version was the current one, and which is."""

    before: Version | None
    now: Version

    def __str__(self) -> str:
        """Both, in a sentence."""
        was = f"{ARTIFACT}@{self.before.name} was" if self.before else "no version was"
        return f"{was} {ARTIFACT}@{PROD}; {ARTIFACT}@{self.now.name} is now"


def rollback(wanted: str | None = None, root: Path = Path(), tell: Tell = TELL) -> Rollback:
    """Make `wanted` the current version; by default the one before it.

    Nobody compares: it is a person's decision, also for a version that the gate refused.

    Raises:
        Refusal: if there is no such version, or it is the current one.
    """
    with building(root, tell):
        above = upstream(root)
        somebody_commits(root)
        for _ in range(ATTEMPTS):
            alone = fetch(root, above)
            before = current(root)
            now = named(root, wanted) if wanted else _before(before, root)
            if before == now:
                raise Refusal(f"{ARTIFACT}@{now.name} is {ARTIFACT}@{PROD} already")
            tag = assign(root, now.name, PROD)
            if above is None or f"{ARTIFACT}@{now.name}" in alone:
                return Rollback(before, now)
            try:
                git(root, "push", "--quiet", "--atomic", above.remote, f"refs/tags/{tag}")
            except GitFailed as failed:
                git(root, "tag", "--delete", tag)
                fetch(root, above)
                if current(root) == before:
                    raise  # nobody was first: git has another reason
                tell(f"somebody else was first ({failed})")
            else:
                return Rollback(before, now)
    raise Refusal(f"others changed the current version {ATTEMPTS} times meanwhile; look, and try again")


def _before(now: Version | None, root: Path) -> Version:
    """The newest version before `now` that was the current one once."""
    every, once = versions(root), history(root)
    older = [version for version in every[: every.index(now)] if version in once] if now in every else []
    if not older:
        raise Refusal(f"no version before {ARTIFACT}@{now.name if now else PROD} was {ARTIFACT}@{PROD}; name one")
    return older[-1]
