"""Each signal against a slow, obvious version of it, on texts of every kind."""

import random
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import regex

from stages.extract.signals import SIGNAL_SCHEMA, measure
from stages.extract.spacy_words import english, spacy_words_of
from stages.params import Refusal
from stages.words import batches, buffer_of, first_equal, words_of

WORD = r"\w+(?:['’]\w+)*"
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}


def slow_lines(text):
    return [line for line in (regex.sub(r"^\s+|\s+$", "", raw) for raw in text.split("\n")) if line]


def slow_paragraphs(text):
    """Lines without a blank one between them, stripped at the outer ends alone."""
    blocks = regex.split(r"\n(?:\s*\n)+", "\n" + text + "\n")
    return [block for block in (regex.sub(r"^\s+|\s+$", "", block) for block in blocks) if block]


def slow_duplicates(parts):
    """How many parts stand earlier in the list, and their characters."""
    later = [part for index, part in enumerate(parts) if part in parts[:index]]
    return len(later), sum(map(len, later))


def slow_top_ngram(tokens, n):
    counts = Counter(" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    most = max(counts.values(), default=0)
    return max((len(ngram) * most for ngram, count in counts.items() if count == most > 1), default=0)


def slow_duplicate_ngrams(tokens, n):
    met, duplicated, i = set(), 0, 0
    while i <= len(tokens) - n:
        ngram = tuple(tokens[i : i + n])
        if ngram in met:
            duplicated += sum(map(len, ngram))
            i += n
        else:
            met.add(ngram)
            i += 1
    return duplicated


def slow_sentences(text):
    return sum(
        len(regex.findall(r"[\p{Sentence_Terminal}…][\"'”’»)\]]{0,3}(?=\s)", line)) + (1 if line else 0)
        for line in slow_lines(text)
    )


def slow_encoded(text):
    """Pieces of encoded data, however they follow each other: the first kind that fits at a place."""
    byte = r"\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)"
    kinds = [r"[a-zA-Z0-9+/\n=]{64,}", rf"(?:{byte}){{8,}}", r"(?:\\u[0-9a-fA-F]{4}){8,}"]
    pieces, place = [], 0
    while place < len(text):
        found = next(filter(None, (regex.compile(kind).match(text, place) for kind in kinds)), None)
        pieces += [found[0]] if found else []
        place = found.end() if found else place + 1
    return pieces


class Shown(HTMLParser):
    """What a page shows, as a browser reads it."""

    def __init__(self):
        super().__init__(convert_charrefs=False)
        self.hidden, self.text = 0, ""

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data):
        self.text += "" if self.hidden else data


def slow_visible(text):
    if "</" not in text:
        return text
    page = Shown()
    page.feed(text)
    page.close()
    return page.text


def slow_signals(text):
    def over(part, whole):
        return part / max(whole, 1)

    tokens = regex.findall(rf"{WORD}|[^\w\s]", text)
    words = [token for token in tokens if regex.match(r"\w", token)]
    lines, paragraphs, raw_lines = slow_lines(text), slow_paragraphs(text), text.split("\n")
    duplicate_lines, duplicate_line_characters = slow_duplicates(lines)
    duplicate_paragraphs, duplicate_paragraph_characters = slow_duplicates(paragraphs)
    return {
        "characters": len(text),
        "bytes": len(text.encode()),
        "words": len(words),
        "marks": len(tokens) - len(words),
        "mean_word_length": over(sum(map(len, words)), len(words)),
        "hash_to_word_ratio": over(text.count("#"), len(words)),
        "ellipsis_to_word_ratio": over(text.count("...") + text.count("…"), len(words)),
        "bullet_line_ratio": over(sum(line[0] in "•‣⁃◦∙▪*-" for line in lines), len(lines)),
        "ellipsis_line_ratio": over(sum(line.endswith(("...", "…")) for line in lines), len(lines)),
        "alphabetic_word_ratio": over(sum(bool(regex.search(r"\p{Alphabetic}", word)) for word in words), len(words)),
        "stop_words": len(STOP_WORDS & set(words)),
        "lines": len(lines),
        "duplicate_line_ratio": over(duplicate_lines, len(lines)),
        "duplicate_line_character_ratio": over(duplicate_line_characters, len(text)),
        "paragraphs": len(paragraphs),
        "duplicate_paragraph_ratio": over(duplicate_paragraphs, len(paragraphs)),
        "duplicate_paragraph_character_ratio": over(duplicate_paragraph_characters, len(text)),
        **{f"top_{n}_gram_character_ratio": min(1.0, over(slow_top_ngram(tokens, n), len(text))) for n in (2, 3, 4)},
        **{
            f"duplicate_{n}_gram_character_ratio": over(slow_duplicate_ngrams(tokens, n), len(text))
            for n in range(5, 11)
        },
        "sentences": slow_sentences(text),
        "lorem_ipsum": text.lower().count("lorem ipsum"),
        "curly_brackets": text.count("{"),
        "line_punct_ratio": over(
            sum(bool(regex.search(r"\p{Sentence_Terminal}$", line)) for line in lines), len(lines)
        ),
        "short_line_ratio": over(sum(len(line) <= 30 for line in lines), len(lines)),
        "char_dup_ratio": over(duplicate_line_characters, len(text.replace("\n", ""))),
        "list_ratio": over(text.count("\n"), len(tokens)),
        "max_line_length": max(map(len, raw_lines)),
        "mean_line_length": over(sum(map(len, raw_lines)), len(raw_lines)),
        "alphanumeric_ratio": over(len(regex.findall(r"[\p{Alphabetic}\p{Nd}]", text)), len(text)),
        "alphabetic_ratio": over(len(regex.findall(r"\p{Alphabetic}", text)), len(text)),
        "encoded_ratio": over(sum(map(len, slow_encoded(text))), len(text)),
        "encoded_run": max(map(len, slow_encoded(text)), default=0),
        "generated_marks": len(
            regex.findall(
                r"(?i)auto-?generated|automatically generated|generated automatically|this file is generated"
                r"|do not (?:edit|modify)",
                text[:1000],
            )
        ),
        "xml_marks": text[:100].count("<?xml version="),
        "visible_characters": len(slow_visible(text)),
        "visible_ratio": over(len(slow_visible(text)), len(text)),
    }


TEXTS = [
    "",
    " ",
    "\n\n\n",
    "a",
    "The quick brown fox doesn't jump over the lazy dog.\nIt's the dog's day, “isn't it?”\n",
    "rock'n'roll 'quoted' o'clock' ' '' a'' it’s ’tis",
    "ha ha ha ha ha ha ha ha ha ha ha ha ha ha",
    "one two three four five\n\none two three four five\n\none two three four five six seven eight nine ten",
    "- item\n  * item\n• item\n- item...\nlast…\n..\n...\n. . .\n",
    "para one\nline\n \t\npara one\nline\n\n\n  para one\nline  \n",
    "def f(x):\n    return {x: 1}\n\n# comment #2\n" * 5,
    "Übermäßig naïve café — Ελληνικά, кириллица; हिन्दी भाषा है। 日本語の文。中文！ 한국어 نص عربي؟ é ﬁ",
    "𝒳 emoji 👩‍👩‍👧 and 🇩🇪 flags; zero\u200bwidth\u00a0space\u2003em\u3000wide",
    "lorem ipsum Lorem Ipsum LOREM IPSUM lorem  ipsum",
    "# Auto-generated by a tool. DO NOT EDIT.\n" + "x = 1\n" * 300 + "# do not edit",
    "He said (\"Stop!\"). She left... Why?! e.g. this. 3.14 is pi\nNo end\nEnd.\n[“Really?”)]. (Yes.)\"']",
    "tab\tseparated\x0bvertical\x0cfeed\rreturn\r\nline\x1cfile\x85next\u2028line",
    f"<?xml version='1.0'?>\n<data>{'QUJD' * 16}\n{'REVG' * 20}==\n{'R0hJ' * 15}</data>" + "<?xml version=" * 9,
    "key = '" + r"\x0a\xFF" * 4 + "'; half = '" + r"\x0a" * 7 + "'; table = {" + "0x1f, " * 9 + "}",
    "<!DOCTYPE html>\n<html><head><title>A page</title>\n<style>p { margin: 1 }</style><!-- a <b>note</b> -->\n"
    "<SCRIPT type='x'>if (a < b) f('<p>no</p>')</SCRIPT></head><body class='é'>\n<p>Shown, 1 < 2.</p><br/></body>",
    "48 31 c0 50 68 2f 2f 73 68 and 0x48,0x31,0xC0,0x50,0x68,0x2f,0x2f,0x73, then de ad be ef\n" + "YWJj\n" * 20,
    r"one = '\u00e4'; eight = '" + r"\u20AC" * 8 + "'",
    "_ __ ___ a_b 1_000 12 34 5.6 -- ==== ----\n====\n----\n====\n",
]  # fmt: skip


def random_text(seed):
    """Words of a small vocabulary, so that much is repeated, with marks and white space of many kinds."""
    generator = random.Random(seed)
    words = ["the", "of", "and", "cat", "dog’s", "don't", "x1", "42", "été", "кот", "日本", "naïve"]
    joins = [" "] * 12 + ["\n", "\n\n", ". ", ", ", "...\n", "… ", " # ", "\n- ", "\n • ", '." ', "{", "\t"]
    return "".join(
        generator.choice(words[: generator.choice([3, 12])]) + generator.choice(joins)
        for _ in range(generator.randrange(200))
    )


def assert_agrees(texts):
    measured = measure(texts)
    assert measured.schema == SIGNAL_SCHEMA
    assert set(measured.columns) - set(slow_signals("")) == {"alphabetic_token_ratio"}  # tests/stages/test_joined.py
    for text, row in zip(texts, measured.iter_rows(named=True), strict=True):
        for name, expected in slow_signals(text).items():
            assert np.isclose(row[name], expected), (name, text)


def test_every_signal_agrees_with_its_slow_version_on_text_of_every_kind():
    assert_agrees(TEXTS)


def test_every_signal_agrees_with_its_slow_version_on_random_text():
    assert_agrees([random_text(seed) for seed in range(150)])


def test_every_signal_has_a_slow_version():
    assert list(slow_signals("")) == [name for name in SIGNAL_SCHEMA if name != "alphabetic_token_ratio"]


@pytest.mark.parametrize(
    ("text", "signal", "value"),
    [
        ("one two three", "words", 3),
        ("don't stop, it’s 5!", "words", 4),
        ("don't stop, it’s 5!", "marks", 2),
        ("aa bbbb", "mean_word_length", 3.0),
        ("a b c 1", "alphabetic_word_ratio", 0.75),
        ("the THE of", "stop_words", 2),
        ("- a\nb\n\n- c\nd", "bullet_line_ratio", 0.5),
        ("ab\ncd\nab\n", "duplicate_line_ratio", 1 / 3),
        ("ab\ncd\nab\n", "duplicate_line_character_ratio", 2 / 9),
        ("ab\ncd\nab\n", "char_dup_ratio", 2 / 6),
        ("a b a b a b", "top_2_gram_character_ratio", 9 / 11),
        ("a b c d e a b c d e", "duplicate_5_gram_character_ratio", 5 / 19),
        ("a b c d e a b c d e", "duplicate_6_gram_character_ratio", 0.0),
        ("a b c d e f a b c d e f", "duplicate_5_gram_character_ratio", 5 / 23),  # b c d e f begins within a b c d e
        ("One. Two? Three", "sentences", 3),
        ("a\nbb\n\n", "mean_line_length", 0.75),
        ("a b , 1", "alphabetic_token_ratio", 0.5),
        ("ab 12", "alphabetic_ratio", 0.4),
        ("x" * 64 + "\n" + "y" * 64, "encoded_run", 129),
        ("x" * 64 + " " + "y" * 64, "encoded_run", 64),
        ("'" + "1f " * 8 + "'", "encoded_run", 24),
        ("0x1f, " * 8, "encoded_run", 0),  # a comma or white space, not both
        ("0x1f," * 8, "encoded_run", 40),
        (r"'" + r"\x1f" * 9 + "'", "encoded_run", 32),  # the edge of no word is before the first
        ("<p>ab</p>", "visible_characters", 2),
        ("<p>ab</p>" + "<style>" + "x" * 100 + "</style>", "visible_ratio", 2 / 124),
        ("a <b> c", "visible_ratio", 1.0),
        ("x" * 63 + " " + "y" * 63, "encoded_run", 0),
        ("a" * 36 + "-" + "x" * 64, "encoded_ratio", 64 / 101),
        (r"\x00" * 8, "encoded_ratio", 0.0),
        (r"\u00e4" * 8, "encoded_ratio", 1.0),
    ],
)  # fmt: skip
def test_a_signal_worked_by_hand(text, signal, value):
    assert measure([text])[signal].to_list() == [pytest.approx(value)]


def test_a_signal_does_not_depend_on_the_texts_beside_it(monkeypatch):
    texts = [*TEXTS, *map(random_text, range(30))]
    together = measure(texts)

    alone = pl.concat([measure([text]) for text in texts])
    monkeypatch.setattr("stages.extract.signals.batches", lambda texts: batches(texts, characters=50))
    in_small_batches = measure(texts)

    assert together.equals(alone)
    assert together.equals(in_small_batches)


def test_no_texts_have_no_signals():
    assert measure([]).schema == SIGNAL_SCHEMA
    assert len(measure([])) == 0


def test_words_of_spacy_are_its_tokens_and_marks_have_only_punctuation():
    english = pytest.importorskip("spacy").blank("en")
    texts = [*TEXTS, "Don't U.S.-based e.g. 3.5% (it's)", "(c) 2020 … ok"]

    buffer = buffer_of(texts)
    words = spacy_words_of(buffer, texts)

    strings = ["".join(map(chr, buffer.codes[a:b])) for a, b in zip(words.starts, words.ends, strict=True)]
    for number, text in enumerate(texts):
        expected = [token.text for token in english(text) if token.text.strip()]
        mine = slice(words.bounds[number], words.bounds[number + 1])
        assert strings[mine] == expected
        assert words.is_word[mine].tolist() == [bool(regex.search(r"[^\p{P}\p{S}\s]", token)) for token in expected]
    first = dict(zip(strings, words.hashes, strict=True))
    assert all(first[string] == found for string, found in zip(strings, words.hashes, strict=True))


@pytest.mark.parametrize(
    ("text", "words", "marks"), [("don't stop!", 3, 1), ("", 0, 0), ("a-b (c)", 3, 3), ("\n \n", 0, 0)]
)
def test_signals_count_the_words_that_are_asked_for(text, words, marks):
    pytest.importorskip("spacy")

    measured = measure([text], "spacy")

    assert measured.schema == SIGNAL_SCHEMA
    assert measured.select("words", "marks").rows() == [(words, marks)]


def test_without_spacy_its_words_are_refused(monkeypatch):
    monkeypatch.setattr("stages.extract.spacy_words.find_spec", lambda name: None)
    english.cache_clear()

    with pytest.raises(Refusal, match=r"extract\.words is spacy, which isn't installed; install the extra `parity`"):
        measure(["a"], "spacy")


@pytest.mark.parametrize(
    ("lengths", "slices"),
    [
        ([], []),
        ([3, 3, 3], [(0, 3)]),
        ([6, 6, 6], [(0, 1), (1, 2), (2, 3)]),
        ([5, 5, 1], [(0, 2), (2, 3)]),
        ([1, 99, 1], [(0, 1), (1, 2), (2, 3)]),
        ([0, 0, 99, 0], [(0, 3), (3, 4)]),
    ],
)
def test_a_batch_holds_ten_characters_or_one_text(lengths, slices):
    found = [(each.start, each.stop) for each in batches(["x" * length for length in lengths], characters=10)]

    assert found == slices


def test_words_have_equal_hashes_only_if_they_are_equal():
    text = " ".join(random_text(seed) for seed in range(20)) + " ab ba aab aba b"
    buffer = buffer_of([text, text])
    words = words_of(buffer)
    strings = ["".join(map(chr, buffer.codes[a:b])) for a, b in zip(words.starts, words.ends, strict=True)]

    pairs = set(zip(strings, words.hashes.tolist(), strict=True))

    assert len(pairs) == len(set(strings)) == len(set(words.hashes.tolist()))


def test_the_first_of_equal_hashes_is_found_among_hashes_that_share_a_bucket():
    generator = np.random.default_rng(1)
    hashes = generator.integers(0, 40, 500, dtype=np.uint64)  # their leading bits are all zero

    assert first_equal(hashes).tolist() == [hashes.tolist().index(each) for each in hashes.tolist()]


def test_every_signal_stands_in_the_docs():
    described = (Path(__file__).parents[2] / "docs/rules.md").read_text(encoding="utf-8")

    absent = {name for name in SIGNAL_SCHEMA if f"`{name}`" not in described}

    assert absent == {
        *(f"top_{n}_gram_character_ratio" for n in (3, 4)),  # "…, 3, 4"
        *(f"duplicate_{n}_gram_character_ratio" for n in range(6, 11)),  # "… to 10"
    }
