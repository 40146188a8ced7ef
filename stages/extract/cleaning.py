"""Clean text: the same characters for the same reading, and without the lines that rules take out."""

import re
import unicodedata

from stages.extract.params import LineRules

NEWLINES = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
# Controls but tab and newline, the byte order mark, and halves of UTF-16 pairs, which UTF-8 can't write.
FORBIDDEN = re.compile(r"[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
# Marks that the Unicode tables of Python 3.12 know and those of 3.11 don't.
NEWER_MARKS = re.compile("([\U00010efd-\U00010eff\U00011f41\U00011f42\U0001e08f\U0001e4ec-\U0001e4ef])")
MANY_BLANK_LINES = re.compile(r"\n{4,}")

# Phrases of C4's code (Raffel et al. 2020), in lower case.
POLICY = re.compile(r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
TERMINAL = (".", "!", "?", '"', "”", "…", "。", "！", "？")  # C4's, and the same marks in other scripts


def clean_text(text: str) -> str:
    """`text` in NFC, lines ended by \\n, without control characters, trailing spaces and heaps of blank lines."""
    lines = [line.rstrip() for line in nfc(clean_code(text)).split("\n")]
    return MANY_BLANK_LINES.sub("\n\n\n", "\n".join(lines))


def nfc(text: str) -> str:
    """`text` in Unicode's normal form C, the same in every Python: marks that not all of them know are left alone."""
    return "".join(unicodedata.normalize("NFC", part) for part in NEWER_MARKS.split(text))


def clean_code(text: str) -> str:
    """`text` with lines ended by \\n and without control characters; spaces and code points mean something in code."""
    return without_blank_edges(FORBIDDEN.sub("", NEWLINES.sub("\n", text)))


def without_blank_edges(text: str) -> str:
    """`text` from its first line that isn't blank to its last character that isn't."""
    begin = len(text) - len(text.lstrip())
    return text[text.rfind("\n", 0, begin) + 1 :].rstrip()


def without_surrogates(text: str) -> str:
    """`text` as UTF-8 can write it: names of files may hold bytes that are no characters."""
    return text.encode("utf-8", "replace").decode("utf-8")


def apply_line_rules(text: str, rules: LineRules) -> tuple[str, int]:
    """`text` without the lines that break a rule, and how many those were. Blank lines break none."""
    if rules == LineRules():
        return text, 0
    lines = text.split("\n")
    kept = [line for line in lines if not line.strip() or not breaks_a_rule(line, rules)]
    return clean_text("\n".join(kept)), len(lines) - len(kept)


def breaks_a_rule(line: str, rules: LineRules) -> bool:
    """If `line` is to be taken out."""
    lowered, words = line.lower(), line.split()
    return (
        (rules.drop_javascript and "javascript" in lowered)
        or (rules.drop_policy and POLICY.search(lowered) is not None)
        or (rules.max_word_characters is not None and max(map(len, words)) > rules.max_word_characters)
        or (rules.min_words is not None and len(words) < rules.min_words)
        or (rules.require_terminal_punctuation and not ends_a_sentence(line))
    )


def ends_a_sentence(line: str) -> bool:
    """If `line` ends in a terminal mark, and not in an ellipsis of three points, as C4 has it."""
    line = line.rstrip()
    return line.endswith(TERMINAL) and not line.endswith("...")
