"""The code of a project that a command runs, found by reading it: nothing is imported."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def code_of(command: str, root: Path = Path()) -> set[Path]:
    """The files of the project at `root` that `command` runs: its module or script, and all that this imports.

    Imports within functions count, too. A package's `__init__.py` counts if there is more in it than its
    docstring. The paths are relative to `root`.
    """
    found: set[Path] = set()
    waiting = list(_started(command, root))
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported(path, root)
    return {path for path in found if path.name != "__init__.py" or _says_something(root / path)}


def imported(path: Path, root: Path = Path()) -> list[Path]:
    """The files of the project at `root` that the Python file `path` imports, packages on the way included."""
    try:
        tree = ast.parse((root / path).read_bytes())
    except SyntaxError:
        return []  # its stage will say so
    return [file for name in _imported_names(tree, path) for file in _files_of(name, root)]


def is_covered(path: Path, dependencies: set[str]) -> bool:
    """Whether one of `dependencies` is `path` itself, or a folder that it is in."""
    return any(str(each) in dependencies for each in (path, *path.parents))


def _started(command: str, root: Path) -> Iterator[Path]:
    """The files that Python is told to run in `command`."""
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        return
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "-m" and re.fullmatch(r"\w+(\.\w+)*", following):
            yield from _files_of(following, root)
            yield from _files_of(f"{following}.__main__", root)
        elif word.endswith(".py") and (root / word).is_file():
            yield Path(word)


def _imported_names(tree: ast.AST, path: Path) -> Iterator[str]:
    package = path.parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)  # a module of it, perhaps


@cache
def _files_of(name: str, root: Path) -> tuple[Path, ...]:
    """The file of the module `name`, and those of the packages that are loaded before it."""
    parts = [part for part in name.split(".") if part]
    places = [Path(*parts[: length + 1]) for length in range(len(parts))]
    candidates = [path for place in places for path in (place.with_suffix(".py"), place / "__init__.py")]
    return tuple(path for path in candidates if (root / path).is_file())


@cache
def _says_something(path: Path) -> bool:
    body = ast.parse(path.read_bytes()).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)
