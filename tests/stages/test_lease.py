"""Leases on a real S3 server."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3fs
from tiny import ROOT

from stages import lease as leases
from stages.lease import Lease, LeaseHeld, LeaseLost, Unreachable, take_lease
from stages.params import Refusal

QUICK = {"renew_every": 0.2, "stale_after": 30.0}
SILENT = {"renew_every": 1000.0, "stale_after": 1.0}  # a holder of whom nothing is heard


@pytest.fixture
def url(s3, monkeypatch) -> str:
    """A key of the test's own."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.url("lease")


def until(condition: Callable[[], bool]) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + 60
        time.sleep(0.05)


def test_the_second_one_is_refused_and_told_who_the_first_is(url):
    with take_lease(url, **QUICK), pytest.raises(LeaseHeld) as refused:
        take_lease(url, **QUICK)

    assert refused.value.holder.startswith(f"process {os.getpid()} on ")
    assert str(refused.value) == f"{url} is held by {refused.value.holder}; wait for it, or stop it, and run again"


def test_of_many_at_once_one_gets_it(url):
    def attempt(_number: int) -> Lease | None:
        try:
            return take_lease(url, **QUICK)
        except LeaseHeld:
            return None

    with ThreadPoolExecutor(4) as pool:
        taken = [lease for lease in pool.map(attempt, range(4)) if lease]

    assert len(taken) == 1
    taken[0].check()
    taken[0].release()


def test_a_holder_that_is_only_slow_keeps_it(url, monkeypatch):
    looks: list[object] = []
    read = leases._Key.read
    monkeypatch.setattr(leases._Key, "read", lambda key: looks.append(key) or read(key))
    with take_lease(url, renew_every=1000) as holder, ThreadPoolExecutor(1) as pool:
        looks.clear()
        second = pool.submit(take_lease, url, stale_after=30)
        until(lambda: len(looks) > 2)
        holder.check()

        with pytest.raises(LeaseHeld):
            second.result()


def test_a_released_lease_leaves_nothing_behind_and_is_free(url, s3):
    with take_lease(url, **QUICK):
        assert s3.filesystem().exists(url)

    assert not s3.filesystem().exists(url)
    with take_lease(url, **QUICK) as lease:
        lease.check()


def test_it_is_renewed_for_as_long_as_it_is_held(url, s3):
    store = s3.filesystem()
    with take_lease(url, **QUICK):
        versions = {store.info(url)["ETag"]}

        until(lambda: versions.add(store.info(url)["ETag"]) or len(versions) > 3)


HOLDER = """
import sys
from stages.lease import take_lease
lease = take_lease(sys.argv[1], renew_every=0.2, stale_after=30)
print("held", flush=True)
sys.stdin.read()
"""


def test_the_lease_of_a_killed_holder_is_taken_over(url, s3):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, url], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LeaseHeld, match=f"process {holder.pid} on"):
            take_lease(url, **QUICK)
        holder.kill()

    with take_lease(url, stale_after=1) as lease:
        lease.check()


def test_a_holder_that_was_taken_for_dead_learns_that_it_lost_the_lease(url):
    first = take_lease(url, **SILENT)
    with take_lease(url, **SILENT) as second:
        with pytest.raises(LeaseLost, match="taken over by process"):
            first.check()
        first.release()  # what isn't its own stays

        assert first.lost
        assert not second.lost
        second.check()


def test_a_holder_whose_lease_was_taken_and_given_up_again_has_lost_it(url):
    first = take_lease(url, **SILENT)
    take_lease(url, **SILENT).release()

    with pytest.raises(LeaseLost):
        first.check()


def test_the_thread_that_renews_it_notices_the_loss(url, s3, caplog):
    caplog.set_level(logging.WARNING, "pedigree")
    stranger = {"owner": "other", "holder": "another one", "renewal": "1"}
    with take_lease(url, **QUICK) as lease:
        s3.filesystem().pipe(url, json.dumps(stranger).encode())

        until(lambda: lease.lost)

    assert s3.filesystem().exists(url)
    assert "taken over by another one" in caplog.text


def test_the_same_owner_need_not_wait_for_its_dead_self(url):
    dead = take_lease(url, owner="clone", renew_every=1000)

    with take_lease(url, owner="clone", stale_after=1000) as lease:
        lease.check()
    dead.release()


def test_a_renewal_whose_answer_was_lost_is_still_a_renewal(url, s3):
    with take_lease(url, **SILENT) as lease:
        written = json.loads(s3.filesystem().cat(url))
        s3.filesystem().pipe(url, json.dumps({**written, "renewal": "unheard"}).encode())

        lease.check()

    assert not s3.filesystem().exists(url)


def test_a_store_that_does_not_answer_is_worth_another_try(url, monkeypatch):
    nowhere = s3fs.S3FileSystem(endpoint_url="http://127.0.0.1:1", config_kwargs={"retries": {"max_attempts": 0}})
    nowhere.retries = 1
    with take_lease(url, **SILENT) as lease, monkeypatch.context() as cut:
        cut.setattr(lease._key, "_store", nowhere)

        with pytest.raises(Unreachable, match="the object store does not answer"):
            lease.check()
        cut.undo()

        assert not lease.lost
        lease.check()


def test_a_wrong_secret_is_refused_without_being_repeated(url, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")

    with pytest.raises(Refusal, match=r"access to the object store is refused \(SignatureDoesNotMatch\)") as refused:
        take_lease(url)

    assert "a-wrong-secret" not in str(refused.value)


def test_no_credentials_are_refused(url, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(Refusal, match=r"refused \(NoCredentialsError\)"):
        take_lease(url)


@pytest.mark.parametrize("place", ["memory://bucket/lease", "s3://bucket", "s3://bucket/", "lease"])
def test_a_place_that_can_hold_no_lease_is_refused(place):
    with pytest.raises(Refusal, match="a lease needs an S3 object store and a key"):
        take_lease(place)


def test_a_key_that_holds_something_else_is_left_alone(url, s3):
    s3.filesystem().pipe(url, b"weights")

    with pytest.raises(Refusal, match="holds something else than a lease"):
        take_lease(url)

    assert s3.filesystem().cat(url) == b"weights"


def test_a_store_that_heeds_no_condition_is_refused(url, monkeypatch):
    heeding = leases._Key._call

    def heedless(key: leases._Key, method: str, **arguments: object) -> object:
        return heeding(key, method, **{name: value for name, value in arguments.items() if not name.startswith("If")})

    monkeypatch.setattr(leases._Key, "_call", heedless)

    with pytest.raises(Refusal, match="does not heed conditional writes"):
        take_lease(url)


def test_it_loads_without_torch_dvc_and_prefect():
    code = "import sys, stages.lease; assert not {'torch', 'dvc', 'prefect'} & set(sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], cwd=Path(ROOT), capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_an_answer_that_breaks_off_is_asked_for_again(url, s3, faulty, monkeypatch):
    with take_lease(url, owner="mine", **QUICK):
        monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.environment["AWS_ENDPOINT_URL"])
        faulty.faults = {"drop": 0.25}

        held = [leases._Key(url, "mine").read() for _ in range(10)]

    assert [found.owner for found in held if found] == ["mine"] * 10
    assert faulty.counts["drop"] > 1
