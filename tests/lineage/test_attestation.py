"""Records say what was, in a form that others read; whatever of a build or its records changes is named."""

import base64
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from damage import flip
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from tiny import Project

from flows.attest import attest
from lineage.attestation import read_records, records_of
from lineage.attestation.check import check, print_check
from lineage.attestation.digests import md5_files, md5_of, sha256_files, sha256_of
from lineage.attestation.records import content_path, fits
from lineage.attestation.signature import Unverified, encoding, key_id, private_key, sign, verify
from lineage.attestation.statement import canonical
from lineage.history import build_at
from stages.params import Refusal

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture(scope="module")
def attested(committed: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built project with a record of each stage, which tests must not change."""
    folder = tmp_path_factory.mktemp("attested") / "project"
    shutil.copytree(committed.folder, folder, symlinks=True)
    (folder / ".dvc/.gitignore").write_text(
        "/config.local\n/tmp\n/cache\n"
    )  # as `dvc init` does in a repository of git
    author = ["-c", "user.name=tiny", "-c", "user.email=tiny@localhost"]
    for command in (["rm", "-r", "--quiet", "--cached", ".dvc/tmp"], ["add", ".dvc"], [*author, "commit", "-qm", "t"]):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    attest(folder)
    return folder


@pytest.fixture
def project(attested: Path, tmp_path: Path) -> Iterator[Path]:
    """The same, for the test to change."""
    folder = tmp_path / "project"
    ignored = shutil.ignore_patterns(".git", "stages", "flows", "lineage", "corpus")
    shutil.copytree(
        attested, folder, symlinks=True, ignore=ignored, copy_function=os.link
    )  # so it replaces what it changes
    yield folder
    shutil.rmtree(folder)


def problems(root: Path) -> list[str]:
    return check(root, build_at(root)).problems


def rewrite(root: Path, stage: str, change) -> None:
    """Have `stage` have another record, well-formed and well-named: `change` does something to its statement."""
    record = records_of(root, build_at(root))[stage]
    statement = json.loads(json.dumps(record.statement))
    change(statement)
    (root / record.path).unlink()
    data = canonical(statement)
    (root / content_path(stage, data)).write_bytes(data)


def test_every_record_is_what_in_toto_and_slsa_say(attested):
    records = read_records(attested)

    assert [record.stage for record in records] == sorted(
        build_at(attested).stages, key=lambda name: name.replace("@", "-")
    )
    for record in records:
        assert record.statement["_type"] == "https://in-toto.io/Statement/v1"
        ParseDict(record.statement["predicate"], Provenance())  # refuses a field that it doesn't know
        subjects = [
            ResourceDescriptor(name=each["name"], digest=each["digest"], annotations=each.get("annotations"))
            for each in record.statement["subject"]
        ]
        made = Statement(
            [each.pb for each in subjects], record.statement["predicateType"], record.statement["predicate"]
        )
        made.validate()
        assert record.data == canonical(record.statement)
        assert record.has_its_name


def test_a_record_of_a_run_that_nobody_saw_says_so_and_invents_nothing(attested):
    record = records_of(attested, build_at(attested))["pretrain"]

    assert (record.began, record.finished, record.seen) == (None, None, False)
    assert record.definition["internalParameters"] == {}
    [observation] = record.run["byproducts"]
    assert observation["annotations"]["seen"] is False
    assert "git" in record.deps  # nothing that it read is otherwise in this commit


def test_no_record_names_the_machine_or_a_folder_of_it(attested):
    for record in read_records(attested):
        for word in (str(attested), os.path.expanduser("~"), socket.gethostname(), os.environ["PATH"]):
            assert word not in record.data.decode()


def test_the_digest_of_a_folder_is_what_sha256sum_says(attested):
    command = r"find -L . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"

    for path, digests in records_of(attested, build_at(attested))["dedup"].pieces.items():
        done = subprocess.run(command, shell=True, cwd=attested / path, capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == digests["sha256"]


def test_dvcs_digest_of_every_out_is_computed_as_dvc_does(attested):
    for path, out in build_at(attested).outs.items():
        assert md5_of(md5_files(attested / path)) == out.md5


def test_a_manifest_is_trusted_where_the_size_is_right_and_only_if_asked(project):
    folder = project / "data/dedup/stories"
    before = sha256_of(sha256_files(folder, trusting=True))
    assert before == sha256_of(sha256_files(folder, trusting=False))

    flip(folder / "decisions-00000.parquet", 40)

    assert sha256_of(sha256_files(folder, trusting=True)) == before
    assert sha256_of(sha256_files(folder, trusting=False)) != before
    with (folder / "decisions-00000.parquet").open("ab") as file:
        file.write(b"more")
    assert sha256_of(sha256_files(folder, trusting=True)) != before


def test_a_whole_build_has_no_problem(attested, capsys):
    assert print_check(attested, None, as_json=False) == 0
    said = capsys.readouterr().out
    assert "14 of 14 stages have a record (14 unsigned)" in said
    assert "the chain from the sources to the model is whole" in said
    assert print_check(attested, "HEAD", as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {
        "stages": 14, "records": 14, "unsigned": 14, "unseen": 14, "equal": 22, "absent": 0, "problems": 0,
    }  # fmt: skip


def test_who_demands_signatures_has_a_sentence_for_each_record_without_one(attested, capsys):
    assert print_check(attested, None, as_json=False, signed=True) == 1
    assert capsys.readouterr().out.count(".json is unsigned") == 14


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("data/filter/stories/decisions-00000.parquet", "filter@stories: data/filter/stories has sha256 "),
        ("data/tokenize/stories/tokens-00000.bin", ": tokens-00000.bin was changed"),
        ("models/base/model.safetensors", "pretrain: models/base has sha256 "),
        ("metrics/evaluate.json", "evaluate: metrics/evaluate.json has sha256 "),
    ],
)
def test_a_flipped_bit_of_an_out_is_found(project, path, said):
    flip(project / path)

    [problem] = problems(project)

    assert said in problem


def test_a_flipped_bit_of_a_record_is_found_and_the_file_is_named(project, capsys):
    record = records_of(project, build_at(project))["dedup"]
    flip(project / record.path, record.data.index(b'"sha256":"') + 12)

    assert print_check(project, None, as_json=False) == 1

    said = capsys.readouterr().out
    assert f"broken: {record.path} was changed after it was written" in said
    assert "broken: dedup has no record" in said


def test_a_file_too_many_in_an_out_is_found(project):
    (project / "models/base/extra.txt").write_text("more")

    [problem] = problems(project)

    assert problem.endswith("extra.txt doesn't belong there")


def test_a_stage_without_a_record_is_a_gap(project):
    (project / records_of(project, build_at(project))["tokenizer"].path).unlink()

    assert problems(project) == ["tokenizer has no record; `pedigree attest` writes one"]


def test_a_record_of_another_run_says_what_it_is_of(project):
    lock = project / "dvc.lock"
    text = lock.read_text().replace("vocabulary: 400", "vocabulary: 401")
    lock.unlink()
    lock.write_text(text)

    [problem] = problems(project)

    assert problem.startswith("tokenizer has no record of this run: the newest, records/tokenizer/")
    assert problem.endswith("is of other parameters")


@pytest.mark.parametrize(
    ("stage", "path", "said"),
    [
        ("pretrain", "data/tokenize/stories", "but tokenize@stories wrote"),  # one of several in a folder that it read
        ("tokenize@scripts", "data/dedup/scripts", "but dedup wrote"),  # a part of a folder
        ("evaluate", "models/base", "but pretrain wrote"),
    ],
)
def test_what_a_stage_read_is_what_another_wrote(project, stage, path, said):
    def forge(statement):
        for dep in statement["predicate"]["buildDefinition"]["resolvedDependencies"]:
            if dep["name"] == path:
                dep["digest"]["sha256"] = "0" * 64

    rewrite(project, stage, forge)

    [problem] = problems(project)

    assert problem.startswith(f"{stage}: it read {path} with sha256 000000000000, {said} ")


def test_a_record_that_vouches_for_other_bytes_is_found(project):
    rewrite(project, "evaluate", lambda statement: statement["subject"][0]["digest"].update(sha256="1" * 64))

    [problem] = problems(project)

    assert problem.startswith("evaluate: metrics/evaluate.json has sha256 ")
    assert "its record says 111111111111" in problem


def test_a_signed_build_holds_until_a_key_or_a_byte_changes(project, monkeypatch):
    shutil.rmtree(project / "records")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    monkeypatch.setenv("PEDIGREE_FLOW_SIGNING_KEY", PEM)
    attest(project)
    keys = project / "records/keys"

    assert all("whose key is not in records/keys" in problem for problem in problems(project))
    keys.mkdir()
    (keys / "builds.pem").write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    found = check(project, build_at(project), signed=True)
    assert (found.problems, found.counts["unsigned"]) == ([], 0)

    record = records_of(project, build_at(project))["pretrain"]
    envelope = json.loads(record.data)
    envelope["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    data = canonical(envelope)
    (project / record.path).unlink()
    (project / content_path("pretrain", data)).write_bytes(data)
    [problem] = problems(project)
    assert problem.endswith(f"the signature of key {key_id(KEY.public_key())[:12]} is not of these bytes")


def test_an_envelope_signs_what_dsse_says():
    assert encoding(b"hello world", "http://example.com/HelloWorld") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"  # of its specification
    )
    envelope, keys = sign(b"{}", KEY), {key_id(KEY.public_key()): KEY.public_key()}
    assert verify(envelope, keys) == key_id(KEY.public_key())
    assert sign(b"{}", KEY) == envelope
    with pytest.raises(Unverified, match="not of these bytes"):
        verify(envelope | {"payload": base64.b64encode(b"[]").decode()}, keys)
    with pytest.raises(Unverified, match="not DSSE's"):
        verify({"payload": "e30="}, keys)
    with pytest.raises(Unverified, match="signed by nobody"):
        verify(envelope | {"signatures": []}, keys)


def test_a_key_is_pem_or_base64_and_a_wrong_one_is_not_repeated():
    assert key_id(private_key(PEM, "KEY").public_key()) == key_id(KEY.public_key())
    raw = base64.b64encode(bytes(range(32))).decode()
    assert key_id(private_key(raw, "KEY").public_key()) == key_id(KEY.public_key())
    with pytest.raises(Refusal, match="environment variable KEY is no ed25519 key; give it") as refused:
        private_key("hush", "KEY")
    assert "hush" not in str(refused.value)


def test_the_newest_of_several_records_is_a_builds(project):
    def at(moment):
        return lambda statement: statement["predicate"]["runDetails"]["metadata"].update(finishedOn=moment)

    build = build_at(project)
    unseen = records_of(project, build)["dedup"].data
    rewrite(project, "dedup", at("2026-03-02T00:00:00Z"))
    newest = records_of(project, build)["dedup"]
    rewrite(project, "dedup", at("2026-03-01T00:00:00Z"))
    for data in (unseen, newest.data):
        (project / content_path("dedup", data)).write_bytes(data)

    assert len([record for record in read_records(project) if fits(record, build.stages["dedup"])]) == 3
    assert records_of(project, build)["dedup"].finished == "2026-03-02T00:00:00Z"
    assert sha256(newest.data).hexdigest() in records_of(project, build)["dedup"].path


def test_a_file_that_is_no_record_is_refused_by_its_name(project):
    (project / f"records/dedup/{'0' * 64}.json").write_text('{"predicate": 1}')

    with pytest.raises(Refusal, match=f"records/dedup/{'0' * 64}.json is not a record"):
        read_records(project)
    assert f"records/dedup/{'0' * 64}.json was changed after it was written: it is no record any more" in problems(
        project
    )


def test_what_is_not_here_is_counted_and_not_called_broken(project, capsys, monkeypatch):
    model = build_at(project).outs["models/base"]
    shutil.rmtree(project / "models/base")
    (project / ".dvc/cache/files/md5" / model.md5[:2] / model.md5[2:]).unlink()

    assert print_check(project, None, as_json=False) == 0

    assert "21 outs are what their records say, 1 are not here and were not compared" in capsys.readouterr().out
    (project / records_of(project, build_at(project))["pretrain"].path).unlink()
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    monkeypatch.setattr("lineage.attestation.pieces._known", {})  # this process has read them before
    with pytest.raises(Refusal, match=f"object {model.md5} of models/base"):
        attest(project)
