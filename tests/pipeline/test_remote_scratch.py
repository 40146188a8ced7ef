"""Checkpoints on an object store: a training that goes on on another node."""

import fcntl
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from tiny import Project
from trainings import Training, train

from stages.documents import write_manifest
from stages.params import Refusal
from stages.pretrain.__main__ import held as held_scratch
from stages.pretrain.checkpoint import damaged
from stages.pretrain.remote import Remote, held_remote

# pretrain with a lease that is renewed often, and which pauses at the step that the file `pause` holds.
TRAINER = """
import runpy, time
from pathlib import Path
from stages import lease
from stages.pretrain.trainer import Trainer

lease.RENEW_EVERY_SECONDS, lease.STALE_AFTER_SECONDS = 0.3, {stale}
train_step = Trainer.train_step

def paused(self, *arguments):
    while len(self.steps) >= int(Path("pause").read_text() or 0):
        time.sleep(0.05)
    return train_step(self, *arguments)

Trainer.train_step = paused
runpy.run_module("stages.pretrain", run_name="__main__")
"""


class Node(Project):
    """A machine that has the inputs of pretrain, and shares nothing with others."""

    def train(self, s3, url: str, until: int = 1000, stale: float = 60.0) -> "subprocess.Popen[bytes]":
        """pretrain with scratch at `url`; it pauses before the step after `until`."""
        self.pause(until)
        environment = self.environment(checkpoint_seconds=0, scratch=url) | s3.environment
        with (self.folder / "said").open("w") as said:
            return subprocess.Popen(
                [sys.executable, "-c", TRAINER.format(stale=stale)], cwd=self.folder, env=environment,
                stdout=subprocess.DEVNULL, stderr=said,
            )  # fmt: skip

    def pause(self, until: int) -> None:
        """Let the training go on until this step."""
        (self.folder / "next").write_text(str(until))
        (self.folder / "next").replace(self.folder / "pause")

    @property
    def said(self) -> str:
        """What the last training said."""
        return (self.folder / "said").read_text()

    def made(self) -> dict[str, bytes]:
        """Everything that pretrain writes."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for folder in ("models/base", "models/checkpoints", "plots/loss.csv", "metrics/pretrain.json")
            for path in [self.folder / folder, *(self.folder / folder).rglob("*")]
            if path.is_file()
        }


def wait_for(condition: Callable[[], object]) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + 120
        time.sleep(0.05)


def steps(s3, url: str) -> list[str]:
    """The whole checkpoints under `url`."""
    found = [path.split("/") for path in s3.filesystem().find(url)]
    return sorted(path[-2] for path in found if path[-1] == "manifest.json" and path[-3] != "published")


@pytest.fixture
def nodes(built: Project, tmp_path: Path) -> list[Node]:
    """Two nodes with the same inputs, and no scratch."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        without = shutil.ignore_patterns("scratch", "base", "checkpoints", "cache", "loss.csv")
        shutil.copytree(built.folder, folder, symlinks=True, ignore=without)
    return [Node(folder) for folder in folders]


def test_a_training_goes_on_on_another_node_and_ends_the_same(built, nodes, s3):
    one, two = nodes
    url = s3.url("scratch")
    first = one.train(s3, url, until=25)
    wait_for(lambda: first.poll() is not None or "step-00000025" in steps(s3, url))
    refused, why = two.train(s3, url).wait(120), two.said
    first.kill()
    first.wait()

    ended = two.train(s3, url, stale=1.0).wait(120)

    assert refused == 2
    sentence = rf"error: {url}/pretrain/\w+ is in use by another pretrain \(process {first.pid} on .+\); wait for it"
    assert re.search(sentence, why)
    assert ended == 0, two.said
    assert "going on after step 25" in two.said
    assert two.made() == Node(built.folder).made()
    assert steps(s3, url)[-1] == "step-00000040"
    assert not [path for path in s3.filesystem().find(url) if path.endswith("lease")]


def test_a_training_that_is_killed_again_and_again_goes_on_from_a_store_with_faults(built, nodes, s3, faulty):
    faulty.faults = {"busy": 0.03, "drop": 0.03, "slow": 0.05}
    folder, draw = str(nodes[0].folder), Random(5)
    moments = sorted(draw.sample(range(8, 40), 6))
    settings = faulty.environment | {"PEDIGREE_SCRATCH": s3.url("scratch"), "PEDIGREE_CHECKPOINT_SECONDS": "0"}
    kills = [
        Training(folder, settings=settings, forgets=True, pauses=0.1, stop_after=step, sent=signal.SIGKILL)
        for step in moments
    ]

    *killed, ended = train(nodes[0], *kills, Training(folder, settings=settings, forgets=True))

    told = (nodes[0].folder / "said-0").read_text()
    assert ended == [0], told
    # One that the store sends away comes again later, as a flow would have it.
    assert {code for codes in killed for code in codes} <= {-signal.SIGKILL, 75}
    assert killed.count([-signal.SIGKILL]) >= 4
    assert "pretrain: fetched s3://" in told
    assert nodes[0].made() == Node(built.folder).made()
    assert faulty.counts["busy"] + faulty.counts["drop"] > 5


def test_a_trainer_that_lost_its_lease_stops_and_sends_nothing_more(nodes, s3):
    url, store = s3.url("scratch"), s3.filesystem()
    trainer = nodes[0].train(s3, url, until=5)
    wait_for(lambda: trainer.poll() is not None or "step-00000005" in steps(s3, url))
    (lease,) = [path for path in store.find(url) if path.endswith("/lease")]

    store.pipe(lease, json.dumps({"owner": "other", "holder": "another one", "renewal": "1"}).encode())
    nodes[0].pause(1000)

    assert trainer.wait(120) == 75
    assert "another trainer has taken over" in nodes[0].said
    assert steps(s3, url)[-1] == "step-00000005"
    assert store.exists(lease)


def test_a_store_that_is_away_stops_no_training_and_gets_the_last_checkpoint_when_it_is_back(nodes, s3):
    url, node = s3.url("scratch"), nodes[0]
    trainer = node.train(s3, url, until=5)
    wait_for(lambda: trainer.poll() is not None or "step-00000005" in steps(s3, url))
    s3.kill()
    try:
        node.pause(10)
        wait_for(lambda: trainer.poll() is not None or "was not sent" in node.said)
        wait_for(lambda: trainer.poll() is not None or list(node.folder.glob("scratch/pretrain/*/step-00000010")))
    finally:
        s3.start(int(s3.endpoint.rpartition(":")[2]))

    trainer.send_signal(signal.SIGTERM)
    node.pause(1000)

    assert trainer.wait(120) == 75
    assert steps(s3, url)[-1] == max(path.name for path in node.folder.glob("scratch/pretrain/*/step-????????"))


@pytest.fixture
def place(s3, monkeypatch) -> str:
    """A place on the store, without a training."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.url("pretrain", "digest")


@contextmanager
def held(place: str, folder: Path) -> Iterator[Remote]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lease").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with held_remote(place, folder, lock) as remote:
            remote.fetch()
            yield remote


def write_step(folder: Path, step: int) -> Path:
    """Something like a checkpoint."""
    made = folder / f"step-{step:08d}"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(bytes([step]) * 100)
    if folder.name != "published":
        write_manifest(made, {"steps": step})
    return made


def here(folder: Path) -> list[str]:
    """The checkpoints in `folder`, by their paths."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("step-????????"))


@pytest.fixture
def sent(place, tmp_path) -> str:
    """The place, after a trainer was there that saved after steps 1 to 4 and published after 2 and 4."""
    folder = tmp_path / "sender"
    for step in (1, 2, 3, 4):
        if step % 2 == 0:
            write_step(folder / "published", step)
        checkpoint = write_step(folder, step)
        with held(place, folder) as remote:
            remote.send(checkpoint)
    return place


def test_the_newest_two_checkpoints_and_all_published_ones_are_kept(sent, s3):
    found = [path.removeprefix(f"{sent[5:]}/") for path in s3.filesystem().find(sent)]

    names = ["published/step-00000002", "published/step-00000004", "step-00000003", "step-00000004"]
    assert found == [f"{name}/{file}" for name in names for file in ("manifest.json", "model.safetensors")]


def test_an_empty_node_gets_the_newest_one_and_what_was_published_before(sent, tmp_path):
    with held(sent, tmp_path / "new"):
        pass

    assert here(tmp_path / "new") == ["published/step-00000002", "published/step-00000004", "step-00000004"]
    assert damaged(tmp_path / "new" / "step-00000004") is None
    assert [path.name for path in (tmp_path / "new" / "published" / "step-00000002").iterdir()] == ["model.safetensors"]


def test_a_node_that_has_a_newer_one_keeps_to_it(sent, tmp_path):
    write_step(tmp_path / "new", 5)

    with held(sent, tmp_path / "new"):
        pass

    assert here(tmp_path / "new") == ["step-00000005"]


def test_a_checkpoint_that_was_half_sent_is_named_and_not_used(sent, s3, tmp_path, caplog):
    caplog.set_level(logging.INFO, "pedigree")
    s3.filesystem().rm(f"{sent}/step-00000004/manifest.json")

    with held(sent, tmp_path / "new"):
        pass

    assert f"{sent}/step-00000004 has no manifest" in caplog.text
    assert here(tmp_path / "new") == ["published/step-00000002", "step-00000003"]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("step-00000004/model.safetensors", b"torn"),
        ("step-00000004/model.safetensors", None),
        ("step-00000004/manifest.json", b"{"),
        ("step-00000004/manifest.json", b'{"shards": [{"path": "../../stranger", "sha256": ""}]}'),
        ("published/step-00000004/model.safetensors", b"torn"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(sent, s3, tmp_path, caplog, path, content):
    caplog.set_level(logging.INFO, "pedigree")
    if content is None:
        s3.filesystem().rm(f"{sent}/{path}")
    else:
        s3.filesystem().pipe(f"{sent}/{path}", content)

    with held(sent, tmp_path / "new") as remote:
        assert [name for name in here(tmp_path / "new") if "published" not in name] == ["step-00000003"]
        assert f"{sent}/{path} is damaged, taking the checkpoint before it" in caplog.text
        write_step(tmp_path / "new" / "published", 4)
        remote.send(write_step(tmp_path / "new", 4))

    with held(sent, tmp_path / "newer"):  # it was mended
        pass
    assert here(tmp_path / "newer") == ["published/step-00000002", "published/step-00000004", "step-00000004"]


def test_what_an_upload_that_broke_off_left_is_removed_by_the_next(sent, s3, tmp_path):
    s3.filesystem().pipe(f"{sent}/step-00000001/model.safetensors", b"half")

    with held(sent, tmp_path / "new") as remote:
        remote.send(write_step(tmp_path / "new", 5))

    assert steps(s3, sent) == ["step-00000004", "step-00000005"]
    assert not [path for path in s3.filesystem().find(sent) if "step-00000001/" in path]


def test_an_upload_that_breaks_off_is_no_checkpoint_and_the_next_one_is_tried(sent, tmp_path, caplog, s3, monkeypatch):
    with held(sent, tmp_path / "new") as remote:
        with monkeypatch.context() as broken:
            broken.setattr(remote._store, "put_file", cut_off)
            remote.send(write_step(tmp_path / "new", 5))
            wait_for(lambda: not remote.in_use)
        before = steps(s3, sent)
        remote.send(write_step(tmp_path / "new", 6))

    assert "step-00000005 was not sent" in caplog.text
    assert before == ["step-00000003", "step-00000004"]
    assert steps(s3, sent) == ["step-00000004", "step-00000006"]


def cut_off(*_arguments: object) -> None:
    raise ConnectionResetError


def test_wrong_credentials_are_refused(place, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")

    with pytest.raises(Refusal, match="access to the object store is refused"), held(place, tmp_path / "new"):
        pass


def test_a_store_that_does_not_answer_is_a_reason_to_come_again(place, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEDIGREE_SCRATCH", place)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")

    with pytest.raises(SystemExit) as ended, held_scratch(Path("scratch/pretrain/digest")):
        pass

    assert ended.value.code == 75
    assert re.search(r"error: s3://.+/lease: the object store does not answer \(\w+\); run again", caplog.text)
