"""Hostile text in the review site, in a real Chromium: shown as text, never run."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from tiny import Project

from lineage.report import write_report
from lineage.report.pages import PAGES, digest

NAMES = [f"{page}.html" for page in PAGES]
STORIES = "data/extract/stories/documents-00000.parquet"

# What a page must show as it stands, and never run. `hit` is what any of it would set.
ATTACKS = [
    "<script>hit('script')</script>",
    "</script><script>hit('end of data')</script>",
    "</title></style></textarea><svg onload=hit('svg')>",
    "<img src=x onerror=hit('image')>",
    "\"><a onmouseover=hit('attribute') href=javascript:hit(1)>x</a>",
    "<style>*{display:none}</style>",
    "{{7*7}}{% raw %}{{ cycler.__init__.__globals__ }}",
    "${7*7}`<!--",
    "<!--<script>",
    "a\u2028hit('line')\u2029b",
]
STEERING = "\u202egnp.exe\x1b[2J\x00\u2066"
HOSTILE_SOURCE = "<img src=x onerror=hit('\u202esource')>"
HOSTILE = {
    "origin": ATTACKS[0] + STEERING,
    "license": ATTACKS[3],
    "date": ATTACKS[4],
    "language": ATTACKS[5],
}


@pytest.fixture(scope="session")
def hostile(committed: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a build whose every text attacks whoever reads it."""
    folder = tmp_path_factory.mktemp("hostile") / "project"
    shutil.copytree(committed.folder, folder, symlinks=True)
    plant(Project(folder))
    return write_report(folder, folder.parent / "report").parent


def plant(project: Project) -> None:
    """Give the build in `project` hostile documents, a hostile source, hostile samples and parameters.

    The files change in the working tree, and the digests in dvc.lock, so that the cache doesn't know them.
    """
    plant_documents(project.folder / STORIES)
    plant_decisions(project.folder / "data/dedup/stories/decisions-00000.parquet")
    for path in project.folder.glob("data/*/scripts"):
        path.rename(path.with_name(HOSTILE_SOURCE))
    samples = [{"prompt": attack, "temperature": 0.0, "text": attack + STEERING} for attack in ATTACKS]
    (project.folder / "models/samples.json").write_text(json.dumps(samples))
    for name in ("params.yaml", "dvc.lock"):
        path = project.folder / name
        path.write_text(path.read_text().replace("corpus/scripts", "corpus/other"))
        values = renamed(yaml.safe_load(path.read_text()))
        path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def plant_documents(path: Path) -> None:
    table = pl.read_parquet(path)
    urls = ["javascript:hit('url')", "JaVaScRiPt:hit(2)", "data:text/html,<script>hit(3)</script>", "vbscript:hit(4)"]
    metas = [
        json.dumps({"title": ATTACKS[n % len(ATTACKS)] + f" number {n}", "url": urls[n % 4]}) for n in range(len(table))
    ]
    metas[1] = json.dumps({"title": ATTACKS[1] + STEERING, "url": "https://evil.example/<script>hit('path')</script>"})
    changed = {name: pl.Series(name, [value, *table[name][1:]], pl.String) for name, value in HOSTILE.items()}
    table.with_columns(**changed, meta=pl.Series(metas)).write_parquet(path)


def plant_decisions(path: Path) -> None:
    table = pl.read_parquet(path)
    dropped = pl.int_range(pl.len()) == 2
    table.with_columns(
        keep=pl.col("keep") & ~dropped,
        split=pl.when(~dropped).then("split"),
        rule=pl.when(dropped).then(pl.lit(ATTACKS[0])).otherwise("rule"),
    ).write_parquet(path)


def renamed(value: Any) -> Any:
    """`value` with the source scripts renamed, digests that no cache has, and attacks among the parameters."""
    if isinstance(value, dict):
        changed = {renamed(key): renamed(each) for key, each in value.items()}
        if str(changed.get("path", "")).startswith(("data/", "models/samples")):
            changed["md5"] = f"{changed['md5'][:8]}{'0' * 24}"
        return changed
    if isinstance(value, list):
        return [renamed(each) for each in value]
    if value == "CC0-1.0":
        return ATTACKS[0]
    if isinstance(value, str):
        return re.sub(r"(?<=[@/.])scripts\b|^scripts$", lambda _: HOSTILE_SOURCE, value)
    return value


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_the_data_says_is_run(hostile, visit, name):
    page = visit.open(hostile / name)
    if name == "documents.html":
        for query in ("script", "number", "evil", "hit"):
            page.get_by_role("searchbox").fill(query)
            page.locator("#results li").first.wait_for()
    page.evaluate("document.querySelectorAll('main *').forEach((one) => one.dispatchEvent(new Event('mouseover')))")

    assert visit.hits == []
    assert visit.complaints == []
    assert visit.asked == [(hostile / name).as_uri()]
    assert page.locator("main img, main iframe, main script, main style, main [onerror], main [onload]").count() == 0


def test_hostile_text_is_shown_as_the_text_that_it_is(hostile, visit):
    page = visit.open(hostile / "build.html")
    shown = page.locator("main").inner_text()

    for attack in ATTACKS:
        assert attack.replace("\u2028", " ").replace("\u2029", " ") in shown.replace("\u2028", " ").replace(
            "\u2029", " "
        )
    assert HOSTILE_SOURCE.replace("\u202e", "\ufffd") in shown
    assert not {"\u202e", "\x1b", "\x00", "\u2066"} & set(page.content())
    assert "49" not in page.locator(".samples").inner_text()


def test_search_shows_hostile_documents_as_text_and_links_only_to_the_web(hostile, visit):
    page = visit.open(hostile / "documents.html")

    page.get_by_role("searchbox").fill("number")
    page.locator("#results li").first.wait_for()
    assert page.locator("#results h2").first.inner_text().startswith(ATTACKS[0][:20])
    assert page.locator("#results a[href^='javascript' i], #results a[href^='data' i]").count() == 0
    assert page.locator("#results dd", has_text="javascript:hit").count() > 0
    page.get_by_role("searchbox").fill("evil.example")
    link = page.get_by_role("link", name="https://evil.example")
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert page.locator("#results h2").inner_text().startswith(ATTACKS[1])
    assert "\u202e" not in page.locator("#results").inner_text()


@pytest.mark.parametrize(
    "fragment", ["q=%3Cimg src=x onerror=hit(1)%3E", "source=%3Cscript%3Ehit(1)&rule=%22%3E%3Cb%3E", "%", "q=%E0%A4%A"]
)
def test_a_hostile_address_is_a_search_for_nothing(hostile, visit, fragment):
    visit.open(hostile / "documents.html", fragment)

    assert (visit.hits, visit.complaints) == ([], [])


@pytest.mark.parametrize("name", NAMES)
def test_a_page_allows_its_own_script_and_style_alone(hostile, visit, name):
    text = (hostile / name).read_text(encoding="utf-8")
    policy = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">', text)
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    rules = dict(rule.split(" ", 1) for rule in policy[0].split("; "))

    assert len(policy) == 1
    assert text.index("Content-Security-Policy") < text.index("<style>")
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert rules["style-src"] == digest(styles[0])
    assert rules["script-src"] == (digest(scripts[0]) if scripts else "'none'")
    assert len(scripts) == (name == "documents.html")
    assert not re.search(r"\s(on\w+|style)=[\"']", text)
