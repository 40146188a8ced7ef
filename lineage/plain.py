"""Text from the web as a terminal may show it."""

import unicodedata


def plain(text: str) -> str:
    """`text` without anything that could steer a terminal or reorder what it shows; lines and tabs stay."""
    return "".join(
        letter if letter in "\n\t" or unicodedata.category(letter)[0] != "C" else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )
