"""Download from a stand-in for the hub, and from a mirror in a folder: streamed, pinned, gone on with."""

import io
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fetching import choose, download, fetched, forget, lock
from tiny import ROOT

from stages import remote
from stages.documents import read_manifest
from stages.download import hub as hub_kind
from stages.locked import locked_source
from stages.params import Refusal

pytestmark = pytest.mark.usefixtures("empty_project")


def rows(first: int, number: int) -> bytes:
    """A Parquet file of a dataset."""
    numbers = range(first, first + number)
    columns = {"content": [f"text {each}" for each in numbers], "key": list(numbers), "unused": [0.5] * number}
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=50)
    return file.getvalue()


FILES = {
    "data/train-0.parquet": rows(0, 120),
    "data/train-1.parquet": rows(120, 80),
    "data/test-0.parquet": rows(900, 3),
}


def a_hub(**more: object) -> dict[str, object]:
    asked = {"text_column": "content", "id_column": "key", "shard_bytes": 900}
    return {"kind": "hub", "dataset": "maker/texts", **asked, **more}


def run(module: str, endpoint: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a module on the source; the hub's address is read when its client is loaded."""
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(Path("hf").absolute()), "PYTHONPATH": str(ROOT), **settings}
    code = (
        "import sys; from pathlib import Path; from flows.lock import write_lock; from stages.lock import entry_of\n"
        "from stages import remote; from stages.download.__main__ import main; from stages.process import run\n"
        "remote.FIRST_WAIT_SECONDS = 0.01\n"
        "lock = lambda: write_lock(Path(), {'texts': entry_of('texts')})\n"
        f"run({'lock' if module == 'lock' else 'main'})"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "texts"], env={**os.environ, **environment}, capture_output=True, text=True
    )


def texts(folder: Path) -> list[str]:
    return [text for path in sorted(folder.glob("*.parquet")) for text in pl.read_parquet(path)["text"]]


def test_a_dataset_is_streamed_from_the_locked_commit_whatever_its_branch_is_now(hub):
    commit = hub.commit(FILES)
    choose(a_hub())
    assert run("lock", hub.url).returncode == 0
    locked = locked_source("texts")
    hub.commit({"data/train-0.parquet": rows(500, 1)})
    forget()
    hub.faults = [503]

    done = run("download", hub.url, PEDIGREE_REQUESTS_PER_SECOND="200")

    assert done.returncode == 0, done.stderr
    folder = Path("data/download/texts")
    assert locked.revision == commit
    assert [file.name for file in locked.files] == ["part-00000.parquet", "part-00001.parquet"]
    assert read_manifest(folder)["about"] == {"revision": commit}
    assert texts(folder) == [f"text {number}" for number in range(200)]
    first = pl.read_parquet(folder / "part-00000.parquet")
    assert first.columns == ["text", "id", "url", "date", "license"]
    assert first.row(7) == ("text 7", "7", None, None, None)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (a_hub(revision="nosuch"), "hf://datasets/maker/texts@nosuch: there is no such"),
        (a_hub(text_column="body"), "has no column body, it has content, key, unused; correct it in params.yaml"),
        (a_hub(split="dev"), "can't be read (Bad split: dev"),
    ],
)
def test_what_the_hub_lacks_is_refused_in_one_sentence(hub, section, sentence):
    hub.commit(FILES)
    choose(section)

    done = run("lock", hub.url)

    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.fixture
def mirror(monkeypatch):
    """The dataset as a folder."""
    monkeypatch.setenv("HF_HOME", str(Path("hf").absolute()))
    for name, content in FILES.items():
        path = Path("mirror") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return "mirror"


def test_a_mirror_in_a_folder_gives_the_same_shards_twice_and_no_revision(mirror):
    first = lock(a_hub(dataset=mirror))
    forget()

    folder = download(a_hub(dataset=mirror))

    assert first.revision is None
    assert texts(folder) == [f"text {number}" for number in range(200)]


def test_a_mirror_that_changed_is_refused_until_it_is_locked(mirror):
    section = a_hub(dataset=mirror)
    lock(section)
    forget()
    Path("mirror/data/train-0.parquet").write_bytes(rows(1, 120))

    with pytest.raises(Refusal, match=r"part-00000.parquet has .* \(locked: .*run `pedigree lock texts`"):
        download(section)
    lock(section)

    assert texts(download(section))[0] == "text 1"


def test_other_parameters_than_were_locked_are_refused(mirror):
    lock(a_hub(dataset=mirror))

    with pytest.raises(Refusal, match=r"shard_bytes=100 is asked for \(locked: .*shard_bytes=900\)"):
        download(a_hub(dataset=mirror, shard_bytes=100))


def test_a_stream_that_breaks_off_goes_on_behind_its_last_whole_shard(monkeypatch, mirror):
    whole, seen = hub_kind._row, []

    def breaking(values, columns):
        seen.append(values["key"])
        if len(seen) == 150:
            raise ConnectionError("connection reset")
        return whole(values, columns)

    monkeypatch.setattr(hub_kind, "_row", breaking)
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    section = a_hub(dataset=mirror, shard_bytes=300)
    with pytest.raises(Refusal, match=r"connection reset"):
        lock(section)
    shards = len(list(Path("scratch").rglob("part-*.parquet")))

    folder = fetched(section)

    assert shards == 3
    assert texts(folder) == [f"text {number}" for number in range(200)]
    assert seen[150] == sum(len(pl.read_parquet(folder / f"part-0000{number}.parquet")) for number in range(3))
