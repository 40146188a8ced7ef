"""The packages that the project itself asks for, one a line: what pip installs, in the versions of requirements.lock.

python wanted.py pyproject.toml train flows
"""

import sys
import tomllib
from pathlib import Path


def wanted(pyproject: str, extras: list[str]) -> list[str]:
    """The requirements of the project whose pyproject.toml has this text, with those of `extras`."""
    project = tomllib.loads(pyproject)["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(each for extra in extras for each in optional[extra])]


if __name__ == "__main__":
    print(*wanted(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2:]), sep="\n")
