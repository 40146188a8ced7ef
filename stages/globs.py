"""Globs of names in folders and archives: `*` and `?` stay within a folder, `**/` is any number of folders."""

import re
from functools import cache


def matches(glob: str, name: str) -> bool:
    """If `glob` matches `name`; `*` and `?` stay within a folder, `**/` is any number of folders."""
    return _compiled(glob).fullmatch(name) is not None


def is_among(name: str, globs: tuple[str, ...]) -> bool:
    """If one of `globs` matches `name` and none that begins with `!` does; without any, every name is wanted."""
    if any(matches(glob[1:], name) for glob in globs if glob.startswith("!")):
        return False
    wanted = [glob for glob in globs if not glob.startswith("!")]
    return not wanted or any(matches(glob, name) for glob in wanted)


@cache
def _compiled(glob: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", glob)
    return re.compile("".join(map(_translated, parts)), re.DOTALL)


def _translated(part: str) -> str:
    """The expression for a piece of a glob: a wildcard, a set of characters, or plain text."""
    wildcards = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    if part in wildcards:
        return wildcards[part]
    return part.replace("[!", "[^", 1) if re.fullmatch(r"\[.+\]", part) else re.escape(part)
