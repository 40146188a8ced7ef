"""A stage as a Kubernetes job, against the small cluster of tests/servers/kubernetes_api.py, whose pods are processes."""

import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from tiny import ROOT

from flows.places import Errand
from flows.places import kubernetes as place
from flows.places.job import job_name
from flows.places.settings import KubernetesResources
from flows.stage import ComeAgain, StageFailed, StageRefused, Stopped
from stages.params import Refusal

ONCE = """
    import pathlib, sys
    mark = pathlib.Path({mark!r})
    if not mark.exists():
        mark.touch()
        sys.exit(75)
    print("this time")
"""
HANG = """
    import signal, sys, time
    def save(signum, frame):
        print("saved", flush=True)
        sys.exit(75)
    signal.signal(signal.SIGTERM, save)
    print("waiting", flush=True)
    time.sleep(120)
"""


@dataclass
class Asker:
    """Whoever asks for a stage, and what it hears."""

    folder: Path
    errand: Errand
    told: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    resources: dict[str, object] = field(default_factory=dict)

    def stage_does(self, script: str) -> None:
        """What the pod runs in place of `pedigree stage`."""
        template = yaml.safe_load((ROOT / "infra/kubernetes/job.yaml").read_text())
        code = textwrap.dedent(script).format(mark=str(self.folder / "mark"))
        template["spec"]["template"]["spec"]["containers"][0]["command"] = [sys.executable, "-c", code]
        (self.folder / "job.yaml").write_text(yaml.safe_dump(template))

    def run(self) -> None:
        """Ask for it, and wait for its end."""
        given = {"place": "kubernetes", "image": "pedigree:test", "template": "job.yaml", **self.resources}
        place.Kubernetes(self.folder).run(
            self.errand, KubernetesResources.model_validate(given), self.told.append, self.stopping
        )

    @property
    def log(self) -> list[str]:
        """What the stage said there."""
        return self.errand.log.read_text().splitlines()


@pytest.fixture
def asker(tmp_path: Path, kubernetes_api) -> Asker:
    errand = Errand("extract@papers", "d" * 64, "c" * 40, str(tmp_path / "store"), tmp_path / "logs" / "extract.log")
    (tmp_path / "store").mkdir()
    return Asker(tmp_path, errand)


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Runs something while the test looks on."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_a_stage_that_ends_well_leaves_its_log(asker, kubernetes_api):
    asker.stage_does("print('one'); print('two')")

    asker.run()

    assert asker.log == ["one", "two"]
    assert asker.told[-2:] == ["one", "two"]
    assert len(kubernetes_api.all_pods) == 1
