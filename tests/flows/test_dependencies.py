"""What is installed, beside the lock."""

from importlib.metadata import distribution, version

import pytest
from webhook import listening

from flows import dependencies
from flows.dependencies import Locked, NotAsked, differing, read_lock, unlicensed, vulnerable
from flows.licences import ALLOWED, EXCEPTIONS, allowed, licence_of, trouble_with_package, trouble_with_source
from stages.params import Refusal

HERE = Locked("pydantic", version("pydantic"))


def test_the_lock_names_what_this_machine_needs(tmp_path):
    (tmp_path / "requirements.lock").write_text(
        "# by make lock\nPydantic==2.0\npywin32==312 ; sys_platform == 'win32'\nnumpy==1.0 ; python_version >= '3'\n"
    )

    assert read_lock(tmp_path / "requirements.lock") == [Locked("pydantic", "2.0"), Locked("numpy", "1.0")]


@pytest.mark.parametrize("line", ["pydantic", "pydantic>=2", "-e .", "pydantic==2.0 junk"])
def test_a_line_that_locks_nothing_is_refused_with_its_number(tmp_path, line):
    (tmp_path / "requirements.lock").write_text(f"numpy==1.0\n{line}\n")

    with pytest.raises(Refusal, match=r"requirements\.lock:2: .*make the file anew by `make lock`"):
        read_lock(tmp_path / "requirements.lock")


def test_a_missing_lock_is_refused(tmp_path):
    with pytest.raises(Refusal, match="restore it from git"):
        read_lock(tmp_path / "requirements.lock")


def test_a_package_that_is_missing_or_of_another_version_is_named():
    assert differing([HERE, Locked("pydantic", "0.1"), Locked("no-such-package", "1.0")]) == [
        f"pydantic 0.1 is locked, but {HERE.version} is installed",
        "no-such-package 1.0 is locked, but nothing is installed",
    ]


def test_vulnerable_packages_are_named_unless_that_is_accepted(monkeypatch):
    monkeypatch.setattr(dependencies, "ACCEPTED", {"GHSA-accepted": "only on Windows"})
    with listening() as database:
        found = {"results": [{"vulns": [{"id": "GHSA-1"}, {"id": "GHSA-accepted"}]}, {}]}
        database.answers = [(200, found)]

        assert vulnerable([HERE, Locked("numpy", "1.0")], database.url) == [f"{HERE} has GHSA-1"]

    assert database.messages[0]["queries"][1] == {"package": {"name": "numpy", "ecosystem": "PyPI"}, "version": "1.0"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((503, "busy"), "not asked: the database answered 503"),
        ((200, "hello"), "not asked: the answer of the database is in another format"),
        ((200, {"results": []}), "not asked: 0 answers for 1 packages"),
    ],
)
def test_a_database_without_an_answer_is_not_taken_for_a_good_one(answer, reason):
    with listening() as database:
        database.answers = [answer]

        with pytest.raises(NotAsked, match=reason):
            vulnerable([HERE], database.url)


def test_without_a_network_that_is_said():
    with pytest.raises(NotAsked, match="not asked: no network"):
        vulnerable([HERE], "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("MPL-2.0 AND (Apache-2.0 OR GPL-2.0-only)", True),
        ("(GPL-2.0-only OR MIT) AND GPL-3.0-only", False),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("ISC License (ISCL)", True),
        ("", False),
        ("(MIT", False),
        ("MIT OR", False),
        ("MIT MIT", False),
    ],
)
def test_an_expression_is_allowed_if_a_choice_of_it_is(expression, holds):
    assert allowed(expression) is holds


def test_an_exception_holds_for_the_licence_that_was_read():
    [name, excepted] = next(iter(EXCEPTIONS.items()))

    assert trouble_with_package(name, excepted.licence) is None
    assert trouble_with_package(name, "another") == f"{name} is under 'another', which is not allowed"
    assert trouble_with_package("other", excepted.licence) is not None
    assert trouble_with_package("other", "") == "other names no licence"


def test_no_exception_is_for_an_allowed_licence():
    assert not [name for name, excepted in EXCEPTIONS.items() if excepted.licence in ALLOWED]


def test_the_licence_of_an_installed_package_is_found():
    assert licence_of(distribution("pydantic").metadata) == "MIT"


def test_every_locked_package_may_be_here():
    assert unlicensed(read_lock()) == []


def test_a_source_needs_an_allowed_licence():
    assert trouble_with_source("stories", "CC0-1.0") is None
    assert trouble_with_source("stories", None) == "source stories names no licence"
    assert trouble_with_source("stories", "private") == "source stories is under 'private', not allowed"
