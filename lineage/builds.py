"""Two builds of the same commit, compared digest by digest.

    the dvc.lock of each  ->  equal or not for every out, and the grade that was reached

The grades (docs/reproducibility.md): data and model mean equal bytes, metric means that the evaluation
agrees within TOLERANCE.
"""

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from lineage.checkout import cache_folder
from lineage.difference import difference
from lineage.history import LOCK
from stages.params import Refusal

DATA = ("download", "extract", "filter", "fingerprint", "dedup", "tokenizer", "tokenize")
MODEL = ("pretrain",)
TOLERANCE = 0.02  # of bits per byte, relative; docs/reproducibility.md says where it comes from
EVALUATION = "metrics/evaluate.json"


@dataclass(frozen=True)
class Out:
    """A file or folder that a stage made, by DVC's digest."""

    stage: str
    path: str
    md5: str

    @property
    def grade(self) -> str:
        """The promise that is made for it: data, model or metric."""
        kind = self.stage.partition("@")[0]
        return "data" if kind in DATA else "model" if kind in MODEL else "metric"


@dataclass(frozen=True)
class Compared:
    """One out of either build; None where a build doesn't have it."""

    first: Out | None
    second: Out | None

    @property
    def out(self) -> Out:
        """The out, as the first build has it, if it does."""
        out = self.first or self.second
        assert out is not None
        return out

    @property
    def equal(self) -> bool:
        """Whether both have it with the same bytes."""
        return self.first is not None and self.second is not None and self.first.md5 == self.second.md5


def read_outs(root: Path) -> dict[str, Out]:
    """Every out of the build in `root`, by path, in the order of its dvc.lock.

    Raises:
        Refusal: if there is no dvc.lock, or it isn't one.
    """
    path = root / LOCK
    try:
        return parse_outs(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refusal(f"{path} is missing: there is no build to compare; run `dvc repro` first") from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise Refusal(f"{path} is not a dvc.lock ({error!r}); restore it from git") from None


def parse_outs(lock: str) -> dict[str, Out]:
    """Every out that the text of a dvc.lock lists, by path, in its order."""
    stages = yaml.safe_load(lock)["stages"]
    outs = [Out(name, out["path"], out["md5"]) for name, stage in stages.items() for out in stage.get("outs", [])]
    return {out.path: out for out in outs}


def beside_commit(root: Path) -> str:
    """How the build in `root` compares with the dvc.lock that is committed there, in a sentence."""
    shown = subprocess.run(["git", "show", f"HEAD:./{LOCK}"], cwd=root, capture_output=True, text=True, check=False)
    if shown.returncode:
        return "There is no committed dvc.lock to compare with."
    ours, theirs = read_outs(root), parse_outs(shown.stdout)
    differ = {out.grade for path, out in ours.items() if path not in theirs or theirs[path].md5 != out.md5}
    if not differ:
        return "Grade reached: model. Every digest is that of the committed dvc.lock."
    if "data" not in differ:
        return (
            "Grade reached: data. Every data digest is that of the committed dvc.lock; the model's differ, "
            "as expected on another kind of processor or with other training parameters (docs/reproducibility.md)."
        )
    return "This is another build than the committed dvc.lock: its data differ (`git diff dvc.lock` says where)."


def compare(first: Path, second: Path, data_only: bool = False, stages: Container[str] | None = None) -> list[Compared]:
    """The outs of both builds, of `stages` alone if given: data before model before metric, as in the first lock."""
    ours, theirs = read_outs(first), read_outs(second)
    pairs = [Compared(ours.get(path), theirs.get(path)) for path in {**ours, **theirs}]
    pairs = [pair for pair in pairs if stages is None or pair.out.stage in stages]
    grades = ("data",) if data_only else ("data", "model", "metric")
    return [pair for grade in grades for pair in pairs if pair.out.grade == grade]


def first_difference(pair: Compared, first: Path, second: Path) -> str:
    """The first file that differs, and where in it; or why it can't be said."""
    if pair.first is None or pair.second is None:
        return "only one of the builds has it"
    ours, theirs = listing(first, pair.first), listing(second, pair.second)
    if ours is None or theirs is None:
        return f"its files are gone from {first if ours is None else second}"
    for path in sorted({*ours, *theirs}):
        if path not in ours or path not in theirs:
            return f"{path} is only in {first if path in ours else second}"
        if ours[path] != theirs[path]:
            with tempfile.TemporaryDirectory(prefix="pedigree-difference-") as folder:
                one = _named(Path(folder, "first"), first, pair.first, path, ours)
                other = _named(Path(folder, "second"), second, pair.second, path, theirs)
                where = difference(one, other) if one.is_file() and other.is_file() else None
            return f"{path}: {where}" if where else path
    return "the files are equal now: one was changed after its build"


def listing(root: Path, out: Out) -> dict[str, str] | None:
    """The digest of each file of `out`, from DVC's cache, else from the folder itself; None if both are gone."""
    cached = _cached(root, out.md5)
    if out.md5.endswith(".dir") and cached.is_file():
        return {entry["relpath"]: entry["md5"] for entry in json.loads(cached.read_text(encoding="utf-8"))}
    if not out.md5.endswith(".dir"):
        return {out.path: out.md5}
    folder = root / out.path
    return dict(_walked(folder)) if folder.is_dir() else None


def _named(folder: Path, root: Path, out: Out, path: str, listed: Mapping[str, str]) -> Path:
    """A link to the file `path` of `out` that has its name, beside one to the index that says how to read it."""
    folder.mkdir()
    for name in (path, str(Path(path).with_suffix(".idx"))):
        if md5 := listed.get(name):
            cached = _cached(root, md5)
            here = root / (name if name == out.path else f"{out.path}/{name}")
            (folder / Path(name).name).symlink_to((cached if cached.is_file() else here).resolve())
    return folder / Path(path).name


def evaluations_agree(first: Path, second: Path) -> str | None:
    """None if bits per byte agree within TOLERANCE, in all and for each source; else where they don't."""
    ours, theirs = _evaluation(first), _evaluation(second)
    if ours.keys() != theirs.keys():
        return "the two evaluations are not of the same sources"
    for name, value in ours.items():
        if abs(theirs[name] - value) > TOLERANCE * value:
            return f"{name}: {value:.4f} and {theirs[name]:.4f} bits per byte differ by more than {TOLERANCE:.0%}"
    return None


def print_verdict(first: Path, second: Path, data_only: bool = False, stages: Container[str] | None = None) -> int:
    """Print the comparison of the builds in two folders (of `stages`); the exit code, 1 if a promise is broken."""
    pairs = compare(first, second, data_only, stages)
    Console(markup=False, highlight=False, emoji=False, width=120).print(_table(pairs, first, second))
    code, sentence = verdict(pairs, first, second)
    print(sentence)
    return code


def verdict(pairs: list[Compared], first: Path, second: Path) -> tuple[int, str]:
    """The exit code, and the sentence that says which grade was reached."""
    differ = {pair.out.grade for pair in pairs if not pair.equal}
    if "data" in differ:
        return 1, "broken promise: data digests differ; they must be equal on any machine"
    if not differ:
        grade = "model" if any(pair.out.grade == "model" for pair in pairs) else "data"
        return 0, f"grade reached: {grade}, every digest is equal"
    if all(pair.out.path != EVALUATION for pair in pairs):
        return 1, (
            "model digests differ, and the evaluation was not built again, so whether the metric grade is reached "
            "is unknown; `--stage evaluate` builds it, too"
        )
    if trouble := evaluations_agree(first, second):
        return 1, f"broken promise: model digests differ, and so does the evaluation: {trouble}"
    return 0, (
        "grade reached: data and metric: data digests are equal, and the evaluation agrees within "
        f"{TOLERANCE:.0%}; model digests differ: expected on another processor, see docs/reproducibility.md"
    )


def _table(pairs: list[Compared], first: Path, second: Path) -> Table:
    table = Table(title="This build, and the one from the clean copy", title_justify="left", title_style="bold")
    for column in ("grade", "stage", "out", "digest", "rebuilt", "first difference"):
        table.add_column(column, overflow="fold")
    for pair in pairs:
        difference = "" if pair.equal else first_difference(pair, first, second)
        rebuilt = "equal" if pair.equal else _short(pair.second)
        table.add_row(pair.out.grade, pair.out.stage, pair.out.path, _short(pair.first), rebuilt, difference)
    return table


def _short(out: Out | None) -> str:
    return out.md5[:12] if out else "missing"


def _cached(root: Path, md5: str) -> Path:
    return cache_folder(root) / md5[:2] / md5[2:]


def _walked(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
            yield path.relative_to(folder).as_posix(), digest.hexdigest()


def _evaluation(root: Path) -> dict[str, float]:
    """The model's bits per byte in all and for each source, of the build in `root`."""
    out = read_outs(root).get(EVALUATION)
    cached = _cached(root, out.md5) if out else None
    path = cached if cached and cached.is_file() else root / EVALUATION
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        by_source = {name: values["model"] for name, values in metrics["sources"].items()}
        return {"all": metrics["bits_per_byte"]["model"], **by_source}
    except FileNotFoundError:
        raise Refusal(f"{path} is missing: evaluations can't be compared; run `dvc repro` or `dvc pull`") from None
    except (ValueError, KeyError) as error:
        raise Refusal(f"{path} is not an evaluation ({error!r}); run `dvc repro` to make it again") from None
