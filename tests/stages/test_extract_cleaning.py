"""Clean-up, line rules and language: pure functions, on values."""

import unicodedata

import pytest

from stages.extract.cleaning import NEWER_MARKS, apply_line_rules, clean_code, clean_text
from stages.extract.language import detect, programming_language
from stages.extract.params import LineRules


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\r\nb\rc\x85d\u2028e\fg", "a\nb\nc\nd\ne\ng"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ufeffa\x00b\x1bc\x7f", "abc"),
        ("tab\tstays", "tab\tstays"),
        ("a  \nb\t\nc\u00a0\n", "a\nb\nc"),
        ("a\n\n\nb", "a\n\n\nb"),
        ("a\n \n\t\n\n\n\nb", "a\n\n\nb"),
        ("\n  \n  indented\n\n", "  indented"),
        ("half a pair: \ud83d", "half a pair:"),
        ("whole: 😀", "whole: 😀"),
        (" \n\t\n", ""),
        ("", ""),
    ],
)
def test_text_is_cleaned(text, clean):
    assert clean_text(text) == clean


@pytest.mark.parametrize("text", ["a\r\n\r\n\r\n\r\n\r\nb \n", "e\u0301\x00 \u2029", "\n\n x \ud800 \n\n\n\n y"])
def test_clean_text_is_clean(text):
    assert clean_text(clean_text(text)) == clean_text(text)


def test_this_python_normalizes_as_every_other():
    marks = [
        chr(code)
        for code in range(0x110000)
        if unicodedata.combining(chr(code)) or unicodedata.normalize("NFD", chr(code)) != chr(code)
    ]

    hangul = 11_172  # decomposed by rule, not by table
    assert len([mark for mark in marks if not NEWER_MARKS.match(mark)]) - hangul == 2969


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    "text", [" " * 500_000 + "x", "\n" * 500_000 + "x", "x" + "\n " * 500_000 + "x", "\t\n" * 300_000]
)
def test_no_text_takes_long(text):
    assert len(clean_text(text).strip()) < 10


def test_code_keeps_its_spaces_blank_lines_and_code_points():
    code = "def f():  \n    return 'e\u0301'\n\n\n\n\nf()"

    assert clean_code("\ufeff" + code.replace("\n", "\r\n") + "\r\n") == code


TEXT = """Please enable JavaScript to go on.
We value you, and our privacy policy.
The quick brown fox jumps over the lazy dog.

Home
no full stop here at the end
And so on...
"Quoted."
"""


@pytest.mark.parametrize(
    ("rules", "removed", "gone"),
    [
        ({}, 0, []),
        ({"drop_javascript": True}, 1, ["JavaScript"]),
        ({"drop_policy": True}, 1, ["privacy"]),
        ({"min_words": 3}, 2, ["Home", "Quoted"]),
        ({"max_word_characters": 9}, 1, ["JavaScript"]),
        ({"require_terminal_punctuation": True}, 3, ["Home", "no full stop", "And so on"]),
        ({"min_words": 2, "drop_policy": True}, 3, ["Home", "Quoted", "privacy"]),
    ],
)
def test_a_line_rule_takes_out_its_lines_and_counts_them(rules, removed, gone):
    text, count = apply_line_rules(clean_text(TEXT), LineRules(**rules))

    assert count == removed
    assert len(text.split("\n")) == 8 - removed
    assert not any(phrase in text for phrase in gone)
    assert "quick brown fox" in text


def test_no_line_may_be_left():
    assert apply_line_rules("one\ntwo", LineRules(min_words=2)) == ("", 2)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The quick brown fox jumps over the lazy dog and runs away.", "en"),
        ("THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG AND RUNS AWAY", "en"),
        ("Der schnelle braune Fuchs springt\nüber den faulen Hund.", "de"),
        ("Григорианският календар е съвременният календар, който се използва.", "bg"),
        ("这是一个关于人工智能的中文句子，我们希望它能够被正确地识别。", "zh"),
    ],
)
def test_the_language_is_detected_with_a_probability(text, language):
    found, score = detect(text)

    assert found == language
    assert 0.3 < score <= 1


@pytest.mark.parametrize("text", ["", " \n ", "\n"])
def test_the_language_of_nothing_is_undetermined(text):
    assert detect(text) == ("und", 0.0)


@pytest.mark.parametrize(
    ("name", "language"), [("a.py", "python"), ("b.test.JS", "javascript"), ("d.po", "gettext"), ("e.zig", "zig")]
)
def test_a_programming_language_is_known_by_the_ending(name, language):
    assert programming_language(name) == language
