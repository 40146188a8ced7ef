"""What a build tells the tools of others, read by those tools' own programs where there are any."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import yaml
from huggingface_hub import DatasetCard
from tiny import ROOT, Project

from lineage.attestation.pieces import read, written
from lineage.attestation.records import content_path
from lineage.attestation.statement import Code, Run, canonical, statement
from lineage.export import croissant, cyclonedx, dataset_card, eu_summary
from lineage.export.facts import TALLY_SCHEMA, Facts, File, Source, by, public, read_facts, tally
from lineage.export.write import FILES, export, render, way_back
from lineage.history import build_at
from stages.documents import DECISION_SCHEMA, DOCUMENT_SCHEMA, write_manifest, write_shard
from stages.params import Refusal

HOSTILE = "<script>alert(1)</script> | [x](javascript:y) \x1b[31m"


@pytest.fixture(scope="module")
def facts(committed: Project) -> Facts:
    """Those of the tiny build."""
    return read_facts(committed.folder)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tallied(*rows: dict[str, object]) -> pl.DataFrame:
    """A tally of documents that were trained on."""
    blank = {"license": "CC0-1.0", "language": "en", "domain": None, "trained": True, "documents": 1, "bytes": 1}
    return pl.DataFrame([{**blank, "date": None, **row} for row in rows], schema=TALLY_SCHEMA)


def with_tally(facts: Facts, table: pl.DataFrame) -> Facts:
    """`facts` of the first source alone, whose documents are those of `table`."""
    return replace(facts, sources=(replace(facts.sources[0], tally=table),))


def without_model(facts: Facts) -> Facts:
    """`facts` of a build that ended with its data."""
    return replace(facts, pretrain={}, evaluate={}, config={}, model=(), requirements=None)


# ---- facts --------------------------------------------------------------------------------------------------


def test_the_tally_counts_every_document_once(committed, facts):
    for source in facts.sources:
        manifest = committed.json(f"data/dedup/{source.name}/manifest.json")["counts"]
        documents = sum(len(pl.read_parquet(committed.folder / file.path)) for file in source.documents)

        assert source.tally["documents"].sum() == documents
        assert source.tally.filter(source.tally["trained"])["documents"].sum() == manifest["train"]


def test_bytes_are_those_of_the_texts(committed, facts):
    source = facts.sources[0]
    texts = pl.concat([pl.read_parquet(committed.folder / file.path, columns=["text"]) for file in source.documents])

    assert source.tally["bytes"].sum() == texts["text"].str.len_bytes().sum()


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://www.Example.org/a?b", "example.org"),
        ("http://name:secret@news.example.com:8080/", "news.example.com"),
        ("not an address", None),
        (None, None),
    ],
)
def test_a_domain_is_the_host_of_a_documents_address(tmp_path, url, domain):
    document = dict.fromkeys(DOCUMENT_SCHEMA) | {"meta": json.dumps({"url": url} if url else {}), "date": "2020"}
    decision = dict.fromkeys(DECISION_SCHEMA) | {"keep": True, "split": "train"}
    for folder, kind, table in (
        ("extract", "documents", pl.DataFrame([document], schema=DOCUMENT_SCHEMA)),
        ("extract", "signals", pl.DataFrame({"id": [""], "bytes": [7]})),
        ("dedup", "decisions", pl.DataFrame([decision], schema=DECISION_SCHEMA)),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        write_shard(tmp_path / folder / f"{kind}-00000.parquet", table)
        write_manifest(tmp_path / folder, {})

    found = tally(tmp_path / "extract", tmp_path / "dedup")

    row = {"license": None, "language": None, "domain": domain, "trained": True, "documents": 1, "bytes": 7}
    assert found.to_dicts() == [{**row, "date": "2020"}]
    assert tally(tmp_path / "extract", tmp_path / "none")["trained"].to_list() == [False]


def test_bytes_that_were_not_measured_have_no_sum():
    table = tallied({"bytes": None}, {"bytes": 5}, {"language": "de", "bytes": 5})

    assert by(table, "language") == [
        {"language": "de", "documents": 1, "bytes": 5},
        {"language": "en", "documents": 2, "bytes": None},
    ]


def test_a_password_in_an_address_is_not_told():
    assert public('"s3://name:secret@bucket/a"') == '"s3://bucket/a"'


def test_a_build_that_is_here_no_more_is_described_out_of_the_cache(repository, facts):
    for folder in ("data", "models", "metrics", "plots"):
        shutil.rmtree(repository.folder / folder)

    there = read_facts(repository.folder, "HEAD")

    assert cyclonedx.bill(there) == cyclonedx.bill(facts)
    assert there.tally.equals(facts.tally)


def test_a_missing_object_is_named_with_its_remedy(repository):
    md5 = build_at(repository.folder).outs["models/base"].md5
    shutil.rmtree(repository.folder / "models")
    (repository.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()

    with pytest.raises(Refusal, match=f"object {md5} of models/base .* is not in the cache"):
        read_facts(repository.folder)


# ---- CycloneDX ----------------------------------------------------------------------------------------------


def validated(bill: dict) -> dict:
    """`bill`, which its format's own schema accepts."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    return bill


def test_the_bill_of_materials_is_valid_and_its_digests_are_those_of_the_files(committed, facts):
    bill = validated(cyclonedx.bill(facts))

    model, (stories, scripts) = bill["metadata"]["component"], bill["components"][:2]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [cyclonedx.sha256(sha256(committed.folder / "models/base/model.safetensors"))]
    for component in (*model["components"], *stories["components"], *scripts["components"]):
        assert component["hashes"][0]["content"] == sha256(committed.folder / component["name"])
    assert stories["licenses"] == [{"license": {"id": "CC0-1.0"}}]


def test_the_model_card_in_the_bill_has_the_scores_with_their_intervals(committed, facts):
    card = cyclonedx.bill(facts)["metadata"]["component"]["modelCard"]

    evaluation = committed.json("metrics/evaluate.json")
    scores = {each["slice"]: each for each in card["quantitativeAnalysis"]["performanceMetrics"]}
    assert card["modelParameters"]["approach"] == {"type": "self-supervised"}
    assert card["modelParameters"]["datasets"] == [{"ref": "source/stories"}, {"ref": "source/scripts"}]
    assert scores["stories"]["value"] == str(evaluation["sources"]["stories"]["model"])
    assert scores["all sources"]["confidenceInterval"] == {
        "lowerBound": str(evaluation["intervals"]["all"]["low"]),
        "upperBound": str(evaluation["intervals"]["all"]["high"]),
    }


def test_every_locked_package_is_in_the_bill(facts):
    lock = (ROOT / "requirements.lock").read_text()
    pins = {line.partition(" ;")[0].strip() for line in lock.splitlines() if "==" in line.partition(" ;")[0]}

    libraries = [each for each in cyclonedx.bill(facts)["components"] if each["type"] == "library"]

    assert {f"{each['name']}=={each['version']}" for each in libraries} == pins
    for_some = [each for each in libraries if each.get("properties")]
    assert {each["purl"] for each in for_some} >= {"pkg:pypi/megatron-core@0.16.1"}


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("cc-by-4.0", {"license": {"id": "CC-BY-4.0"}}),
        ("CC-BY", {"license": {"name": "CC-BY"}}),
        ("LicenseRef-ours", {"license": {"name": "LicenseRef-ours"}}),
        ("MIT OR Apache-2.0", {"license": {"name": "MIT OR Apache-2.0"}}),
        (HOSTILE, {"license": {"name": HOSTILE}}),
        (None, {"license": {"name": "unknown"}}),
    ],
)
def test_a_licence_goes_by_its_spdx_identifier_if_it_has_one(facts, text, licence):
    assert cyclonedx.licence(text) == licence
    validated(cyclonedx.bill(with_tally(facts, tallied({"license": text}))))


# ---- Croissant ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # rdflib's, of its own parts
def test_croissants_own_program_reads_every_document_and_decision(committed, facts, tmp_path):
    import mlcroissant

    shutil.copytree(committed.folder / "data", tmp_path / "data")
    path = tmp_path / "croissant.json"
    path.write_text(json.dumps(croissant.description(facts)))

    dataset = mlcroissant.Dataset(path)

    assert dataset.metadata.ctx.issues.errors == set()
    assert dataset.metadata.ctx.conforms_to.value == "http://mlcommons.org/croissant/1.1"
    documents, decisions = (list(dataset.records(name)) for name in ("document", "decision"))
    table = pl.read_parquet(committed.folder / "data/extract/*/documents-*.parquet").sort("id")
    assert sorted(row["document/id"].decode() for row in documents) == table["id"].to_list()
    assert {row["document/text"].decode() for row in documents} == set(table["text"])
    assert sum(row["decision/split"] == b"train" for row in decisions) == sum(
        source.counts.trained for source in facts.sources
    )


def test_every_shard_stands_in_the_croissant_file_with_its_digest(committed, facts):
    described = croissant.description(facts)

    files = [each for each in described["distribution"] if each["@type"] == "cr:FileObject"]
    shards = {path.relative_to(committed.folder).as_posix() for path in committed.folder.glob("data/extract/*/doc*")}
    assert {each["contentUrl"] for each in files} >= shards
    for each in files:
        assert each["sha256"] == sha256(committed.folder / each["contentUrl"])
        assert each["contentSize"] == f"{(committed.folder / each['contentUrl']).stat().st_size} B"


def test_every_column_is_described():
    assert {*DOCUMENT_SCHEMA, *DECISION_SCHEMA} == set(croissant.COLUMNS)


@pytest.mark.parametrize(
    ("out", "back"), [(".", "."), ("exports", ".."), ("a/b", "../.."), ("..", "."), ("../elsewhere", ".")]
)
def test_addresses_of_files_lead_back_to_the_project_and_tell_no_path_of_the_machine(tmp_path, out, back):
    root = tmp_path / "project"
    root.mkdir()

    assert way_back(root, root / out) == back


# ---- cards --------------------------------------------------------------------------------------------------


def test_the_hub_reads_the_dataset_card(facts):
    data = DatasetCard(dataset_card.as_markdown(facts)).data

    assert data.license == ["cc0-1.0"]
    assert data.language == ["en"]  # python is no natural language
    assert data.size_categories == ["n<1K"]


def test_the_dataset_card_says_where_the_documents_went(committed, facts):
    text = dataset_card.as_markdown(facts)

    for name in ("stories", "scripts"):
        counts = {
            stage: committed.json(f"data/{stage}/{name}/manifest.json")["counts"] for stage in ("extract", "dedup")
        }
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} | corpus/"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[2] == str(counts["extract"]["read"])
        assert cells[6:8] == [str(counts["dedup"]["held_out"]), str(counts["dedup"]["train"])]
        dropped = committed.json(f"data/filter/{name}/manifest.json")["counts"]["dropped"]
        assert dropped or name != "stories"
        assert all(f"| {name} | filter | {rule} | {count} |" in text for rule, count in dropped.items())
    assert "Personal data: unknown" in text


def test_what_a_document_says_of_itself_is_text_in_the_cards(facts):
    named = with_tally(facts, tallied({"license": HOSTILE, "domain": HOSTILE, "language": HOSTILE}))

    for text in (dataset_card.as_markdown(named), eu_summary.as_markdown(named)):
        assert "alert(1)" in text
        assert "<script>" not in text
        assert "\x1b" not in text
        assert "[x](" not in text.replace("\\[x](", "")


def test_a_licence_that_the_hub_does_not_know_is_other_there(facts):
    data = DatasetCard(dataset_card.as_markdown(with_tally(facts, tallied({"license": "public domain"})))).data

    assert (data.license, data.license_name) == ("other", "by-document")


@pytest.mark.parametrize(
    ("documents", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (5_000_000, "1M<n<10M"), (3 * 10**11, "100B<n<1T")]
)
def test_the_hubs_size_is_by_documents(documents, size):
    assert dataset_card.size_category(documents) == size


# ---- the EU's summary ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "size"),
    [
        (None, None),
        (999_999_999, "less than 1 billion tokens"),
        (10**9, "1 billion to 10 trillion tokens"),
        (10**13, "1 billion to 10 trillion tokens"),
        (10**13 + 1, "more than 10 trillion tokens"),
    ],
)
def test_the_size_is_one_of_the_templates_ranges(tokens, size):
    assert eu_summary.bracket(tokens) == size


@pytest.mark.parametrize(("domains", "most", "fewer"), [(1, 1, 1), (11, 2, 1), (1000, 100, 50), (30_000, 3000, 1000)])
def test_the_template_asks_for_a_tenth_of_the_domains_and_for_less_of_a_small_enterprise(domains, most, fewer):
    assert (eu_summary.top(domains), eu_summary.top(domains, small=True)) == (most, fewer)


def test_the_largest_domains_come_first(facts):
    rows = [{"domain": f"site{number}.example", "bytes": number} for number in range(1, 21)]

    text = eu_summary.as_markdown(with_tally(facts, tallied(*rows)))

    assert "Of 20 domains" in text
    assert "| 1 | site20.example | 1 | 20 |\n| 2 | site19.example | 1 | 19 |\n" in text
    assert "site18.example" not in text


def test_the_estimate_stands_beside_both_marks_and_nothing_is_claimed(facts):
    text = eu_summary.as_markdown(replace(facts, pretrain={"flops": 2e22, "tokens": 5}))

    assert "| estimate of this build | 2.000e+22 FLOPs |" in text
    assert "| 1e+23 FLOPs | 0.2 times that |" in text
    assert "| 1e+25 FLOPs | 0.002 times that |" in text
    assert "compliant" not in text.lower()
    assert text.count("unknown: to be filled by the provider") > 10


def test_a_build_without_a_model_is_described_as_far_as_it_goes(facts):
    half = without_model(facts)

    validated(cyclonedx.bill(half))
    assert "| parameters | unknown |" in eu_summary.as_markdown(half)
    assert "| estimate of this build | unknown |" in eu_summary.as_markdown(half)
    assert DatasetCard(dataset_card.as_markdown(half)).data.tags


# ---- OpenLineage --------------------------------------------------------------------------------------------


def leave_records(project: Project, flow: str | None = None) -> None:
    """A record of each stage, one second after the other, as a flow leaves them."""
    build = build_at(project.folder)
    for second, stage in enumerate(build.stages.values()):
        began, ended = (f"2026-01-02T03:04:{2 * second + late:02d}Z" for late in (0, 1))
        run = Run(began=began, finished=ended, invocation=flow)
        pieces = written(project.folder, build, stage), read(project.folder, build, stage)
        data = canonical(statement(stage, *pieces, Code("a" * 40, True), run, {}))
        path = project.folder / content_path(stage.name, data)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_events_are_those_of_the_records_and_of_dvc_lock(repository):
    leave_records(repository, flow="0b6f8f6e-5a5c-4e0f-9f0e-0c7a8f3a2b11")
    told: list[str] = []

    events = lines(render("openlineage", read_facts(repository.folder), ".", told.append))

    lock = yaml.safe_load((repository.folder / "dvc.lock").read_text())["stages"]
    assert told == []
    assert [event["eventTime"] for event in events] == sorted(event["eventTime"] for event in events)
    assert [event["job"]["name"] for event in events[::2]] == list(lock)
    for start, complete in zip(events[::2], events[1::2], strict=True):
        assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
        assert start["run"]["runId"] == complete["run"]["runId"]
        assert complete["run"]["facets"]["parent"]["run"]["runId"] == "0b6f8f6e-5a5c-4e0f-9f0e-0c7a8f3a2b11"
        assert complete["job"]["facets"]["sourceCodeLocation"]["version"] == "a" * 40
        outs = {each["name"]: each["facets"]["version"]["datasetVersion"] for each in complete["outputs"]}
        assert outs == {out["path"]: out["md5"] for out in lock[complete["job"]["name"]]["outs"]}


def test_the_events_join_what_is_written_with_what_is_read(repository):
    leave_records(repository)

    events = lines(render("openlineage", read_facts(repository.folder), ".", print))

    ended = {event["job"]["name"]: event for event in events if event["eventType"] == "COMPLETE"}
    inputs = {name: {each["name"] for each in event["inputs"]} for name, event in ended.items()}
    assert inputs["download@stories"] == {"corpus/stories.jsonl"}
    assert inputs["dedup"] >= {"data/fingerprint/stories", "data/fingerprint/scripts", "data/filter/stories"}
    assert inputs["tokenize@stories"] == {"data/extract/stories", "data/dedup", "models/tokenizer"}
    assert not any(name.startswith("stages/") for names in inputs.values() for name in names)
    versions: dict[str, set[str]] = {}
    for event in ended.values():
        for each in (*event["inputs"], *event["outputs"]):
            if "version" in each["facets"]:
                versions.setdefault(each["name"], set()).add(each["facets"]["version"]["datasetVersion"])
    assert all(len(each) == 1 for each in versions.values())


def test_a_stage_without_a_record_has_no_events_and_that_is_said(facts):
    told: list[str] = []

    assert render("openlineage", facts, ".", told.append) == ""
    assert "no record says when any stage ran" in told[0]


# ---- the command --------------------------------------------------------------------------------------------


def test_the_command_writes_every_export_and_equal_ones_of_an_equal_build(repository):
    leave_records(repository)
    first = repository.run(sys.executable, "pedigree.py", "export", "all")

    export("all", repository.folder / "again", repository.folder)

    assert first.returncode == 0, first.stderr
    assert first.stdout.split() == [f"exports/{name}" for name in FILES.values()]
    for name in FILES.values():
        once, again = ((repository.folder / folder / name).read_bytes() for folder in ("exports", "again"))
        assert once == again
        assert str(repository.folder).encode() not in once
        assert Path.home().as_posix().encode() not in once


def test_an_unknown_export_is_refused_with_the_known_ones(committed, tmp_path):
    with pytest.raises(Refusal, match="there is no export spdx; name one of openlineage, cyclonedx"):
        export("spdx", tmp_path, committed.folder)


def test_a_folder_that_cannot_be_written_is_named(committed, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(Refusal, match=r"file/bom\.cdx\.json can't be written .*--out"):
        export("cyclonedx", tmp_path / "file", committed.folder)


@pytest.mark.parametrize(
    ("expected", "downloaded", "digest"),
    [
        ({}, (File("data/download/web/Texts.whl", 1, "b" * 64),), "b" * 64),
        ({"sha256": "a" * 64}, (), "a" * 64),  # a build of before the sources were locked, without its files
        ({}, (), None),
    ],
)
def test_a_package_has_the_digest_of_the_wheel_that_was_read(expected, downloaded, digest):
    params = {"download": {"packages": [{"name": "Texts", "version": "1.0", **expected}]}}
    source = Source("web", params, downloaded, (), (), None, tallied())

    [package] = cyclonedx.of_packages(source)

    assert package.get("hashes") == ([cyclonedx.sha256(digest)] if digest else None)
    assert package["purl"] == "pkg:pypi/texts@1.0"


@pytest.mark.parametrize(
    ("download", "url"),
    [
        ({"kind": "files", "urls": ["https://user:secret@example.org/a.txt"]}, "https://example.org/a.txt"),
        ({"kind": "hub", "dataset": "maker/texts"}, "hf://datasets/maker/texts"),
        ({"kind": "git", "url": "https://user:secret@example.org/code.git"}, "https://example.org/code.git"),
        (
            {"kind": "crawl", "snapshot": "CC-MAIN-2026-05"},
            "https://data.commoncrawl.org/crawl-data/CC-MAIN-2026-05",
        ),
        ({"kind": "synthetic", "model": "maker/writer"}, "model:maker/writer"),
    ],
)
def test_a_source_of_each_kind_has_an_address_without_credentials(download, url):
    source = Source("web", {"download": download}, (), (), (), None, tallied())

    assert source.urls == [url]


def test_a_source_that_a_model_wrote_is_called_synthetic():
    source = Source(
        "stories", {"download": {"kind": "synthetic", "model": "maker/writer"}}, (), (), (), None, tallied()
    )
    facts = SimpleNamespace(sources=(source, replace(source, name="web", params={"download": {"kind": "files"}})))

    section = "\n".join(eu_summary.synthetic(facts))

    assert dataset_card.origins(source) == ["synthetic", "model:maker/writer"]
    assert "| stories | maker/writer |" in section
    assert "web" not in section
    assert "No source of this build" in "\n".join(eu_summary.synthetic(SimpleNamespace(sources=())))
