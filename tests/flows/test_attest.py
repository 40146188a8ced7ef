"""Each stage that a flow ran leaves a record of what was seen; what did not run leaves none."""

import json
import platform
import subprocess
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from versioned import make_clone

from flows.attest import attest, attest_here
from flows.lifetime.lease import building
from flows.publication.publish import publish
from flows.publication.signature import sign_model
from flows.seen import gpus, launch_options, seen_of, settings_here
from flows.work import Work, build_locally, say
from lineage.attestation import read_records, records_of
from lineage.attestation.signature import key_id, verify
from lineage.history import build_at
from stages.params import Refusal

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


def pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def names(root):
    return sorted(record.stage for record in read_records(root))


def test_what_ran_has_a_record_and_what_did_not_has_none(diamond):
    before = datetime.now(UTC) - timedelta(seconds=1)
    with building(diamond.root, partial(say, "build"), flow_run="a-run-of-prefect"):
        work = Work(["left"])
        for stage in work.stages:
            work.do(stage, partial(say, stage.name))
    [left, top] = sorted(read_records(diamond.root), key=lambda record: record.stage)

    assert (left.stage, top.stage) == ("left", "top")
    assert before <= datetime.fromisoformat(top.began) <= datetime.fromisoformat(top.finished)
    assert datetime.fromisoformat(top.finished) <= datetime.fromisoformat(left.finished) <= datetime.now(UTC)
    assert left.run["metadata"]["invocationId"] == "a-run-of-prefect"
    found = {each["name"]: each["annotations"] for each in left.run["byproducts"]}
    assert found["environment"]["python"] == platform.python_version()
    assert 2**20 < found["resources"]["peakMemoryBytes"] < 2**32
    assert left.definition["internalParameters"]["worldSize"] == 1
    assert left.deps["out/top"] == top.outs["out/top"]
    assert left.seen

    build_locally(["left"])  # cached
    assert names(diamond.root) == ["left", "top"]
    diamond.change("left", "something else")
    build_locally(["left"])
    diamond.change("left", "left")  # as it was: in the run-cache
    build_locally(["left"])
    assert names(diamond.root) == ["left", "left", "top"]
    assert records_of(diamond.root, build_at(diamond.root))["left"].path == left.path


def test_what_a_plain_repro_ran_gets_a_record_afterwards_and_only_once(diamond, capsys):
    build_locally(["top"])
    subprocess.run(["dvc", "repro", "--quiet", "left"], cwd=diamond.root, check=True)

    attest_here(None, as_json=True)

    [path] = json.loads(capsys.readouterr().out)
    assert path.startswith("records/left/")
    record = records_of(diamond.root, build_at(diamond.root))["left"]
    assert (record.path, record.seen, record.began) == (path, False, None)
    attest_here(None, as_json=False)
    assert capsys.readouterr().out == "every stage has its record\n"
    with pytest.raises(Refusal, match="HEAD: a record is of the build that stands here"):
        attest_here("HEAD", as_json=False)


def test_without_a_build_there_is_nothing_to_attest(diamond):
    with pytest.raises(Refusal, match=r"dvc\.lock is missing: nothing is built yet"):
        attest(diamond.root)


def test_a_record_is_signed_and_the_stage_never_sees_the_key(single, monkeypatch):
    key = Ed25519PrivateKey.generate()
    script = single.root / "stage.py"
    script.write_text(script.read_text() + "\nPath('out', name).write_text('\\n'.join(os.environ))\n")
    monkeypatch.setenv("PEDIGREE_FLOW_SIGNING_KEY", pem(key))
    monkeypatch.setenv("PEDIGREE_FLOW_SLOTS", "1")

    build_locally()

    [record] = read_records(single.root)
    id = key_id(key.public_key())
    assert verify(record.envelope, {id: key.public_key()}) == id
    seen = (single.root / "out/alone").read_text().split()
    assert "PEDIGREE_FLOW_SLOTS" in seen
    assert "PEDIGREE_FLOW_SIGNING_KEY" not in seen


def test_a_wrong_key_is_refused_before_anything_runs(single, monkeypatch):
    monkeypatch.setenv("PEDIGREE_FLOW_SIGNING_KEY", "hush")

    with pytest.raises(Refusal, match="PEDIGREE_FLOW_SIGNING_KEY is no ed25519 key"):
        build_locally()
    assert single.pid("alone") is None


def test_a_record_that_cannot_be_written_does_not_fail_the_build(single, caplog):
    (single.root / "records").write_text("a file where the folder belongs")

    with caplog.at_level("INFO", "pedigree.flows"):
        build_locally()

    assert "it leaves no record" in caplog.text
    assert (single.root / "out/alone").exists()


def test_the_code_is_that_of_the_commit_only_if_nothing_else_was_changed(single):
    single.share("store")
    build_locally(push=False)
    (single.root / "notes.txt").write_text("more")
    single.change("alone", "again")
    build_locally(push=False)

    commit = single.git("rev-parse", "HEAD").strip()
    told = [
        (dep["digest"]["gitCommit"], dep["annotations"]["clean"])
        for record in sorted(read_records(single.root), key=lambda record: record.finished)
        for dep in record.definition["resolvedDependencies"]
        if dep["name"] == "git"
    ]
    assert sorted(told) == [(commit, False), (commit, True)]


def test_a_record_tells_how_many_processes_compute_but_no_address(monkeypatch):
    monkeypatch.setenv(
        "PEDIGREE_LAUNCH",
        "--multi_gpu --num_processes=8 --num-machines 2 --main_process_ip 10.1.2.3 --config_file /home/x/hush.yaml",
    )
    monkeypatch.setenv("PEDIGREE_SCRATCH", "s3://hush/scratch")
    monkeypatch.setenv("PEDIGREE_WORKERS", "3")

    found = settings_here()

    assert found["launch"] == {"multi_gpu": "true", "num_processes": "8", "num_machines": "2"}
    assert (found["worldSize"], found["workers"]) == (8, 3)
    seen = json.dumps(seen_of(datetime.now(UTC), None).machine)
    assert platform.node() not in seen
    assert launch_options(["--main_process_ip", "--num_processes", "4"]) == {"num_processes": "4"}


def test_the_gpus_are_those_that_the_driver_lists(tmp_path):
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0/information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   42\n")

    assert gpus(tmp_path) == ["NVIDIA H100 80GB HBM3"]
    assert gpus(tmp_path / "none") == []


@pytest.fixture
def clone(tmp_path):
    """A built and attested toy, which can be published."""
    made = make_clone(tmp_path / "toy", remote=None)
    made.build()
    attest(made.root)
    return made


def test_a_version_holds_the_records_of_its_build(clone):
    [path] = [record.path for record in read_records(clone.root)]

    assert publish(root=clone.root).version == "v1.0.0"

    committed = clone.git("show", "--name-only", "--format=", "HEAD").split()
    assert committed == ["dvc.lock", "records/base/v1.0.0.json", path]
    assert clone.git("status", "--porcelain") == ""


def test_a_publication_that_was_killed_after_its_push_is_found_done(tmp_path):
    clone = make_clone(tmp_path / "toy")
    clone.build()
    attest(clone.root)
    before = clone.head()
    publish(root=clone.root)
    clone.git("update-ref", "refs/heads/main", before)  # as if it had been killed before the branch here moved
    clone.git("reset", "--quiet")
    assert "?? records/" in clone.git("status", "--porcelain")

    assert publish(root=clone.root).outcome == "idle"

    assert clone.git("status", "--porcelain") == ""
    assert clone.head() == clone.head(there=True)
    assert len(read_records(clone.root)) == 1


def test_whom_to_trust_is_for_people_to_commit(clone):
    (clone.root / "records/keys").mkdir(parents=True)
    (clone.root / "records/keys/other.pem").write_text("a key")

    with pytest.raises(Refusal, match=r"records/keys/other\.pem changed since the last commit"):
        publish(root=clone.root)


def test_a_changed_record_is_not_published(clone):
    publish(root=clone.root)
    [record] = read_records(clone.root)
    (clone.root / record.path).write_bytes(record.data + b" ")

    with pytest.raises(Refusal, match=f"{record.path} changed since the last commit"):
        publish(root=clone.root)


def test_a_published_model_is_signed_in_the_format_of_openssf(clone, monkeypatch, tmp_path):
    from model_signing import verifying

    key = ec.generate_private_key(ec.SECP256R1())
    monkeypatch.setenv("PEDIGREE_FLOW_MODEL_SIGNING_KEY", pem(key))

    publish(root=clone.root)

    public = tmp_path / "public.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
    model, signature = clone.root / "models/base", clone.root / "records/base/v1.0.0.sig"
    verifier.verify(model, signature)
    assert clone.git("status", "--porcelain") == ""
    assert sorted(path.name for path in model.iterdir()) == ["weights"]
    (model / "weights").unlink()
    (model / "weights").write_text("others")
    with pytest.raises(ValueError, match="Hash mismatch for 'weights'"):
        verifier.verify(model, signature)


def test_a_key_that_models_are_not_signed_with_is_refused(monkeypatch):
    assert sign_model(Path()) is None
    for wrong in ("hush", pem(Ed25519PrivateKey.generate()), pem(ec.generate_private_key(ec.SECP256K1()))):
        monkeypatch.setenv("PEDIGREE_FLOW_MODEL_SIGNING_KEY", wrong)
        with pytest.raises(Refusal, match="PEDIGREE_FLOW_MODEL_SIGNING_KEY is no key that models are signed with"):
            sign_model(Path())
