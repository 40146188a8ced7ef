"""Documents are followed from their file to the batches that the model got, and back."""

import json
import random
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from recorded import LENGTH, SAMPLES, STEPS, Recorded, record
from tokenizers import Tokenizer

from lineage.checkout import checked_out
from lineage.documents import Place, find
from lineage.history import build_at
from lineage.steps import Plan
from lineage.trace.content import content_of, named, parts
from lineage.trace.show import Visit, visits_of
from lineage.training import plan_of
from lineage.why.answer import WANTED, answer_of
from lineage.why.way import Way, way_of
from stages.documents import write_manifest, write_shard

pytestmark = pytest.mark.timeout(900)

FOLLOWED = 200


@dataclass(frozen=True)
class Followed:
    """What lineage says of a recorded project, and what was recorded."""

    recorded: Recorded
    folder: Path  # with the build's files
    plan: Plan
    ways: dict[str, Way]  # of every document, by id
    visits: dict[str, list[Visit]]
    tokenizer: Tokenizer

    def row(self, visit: Visit) -> list[int]:
        """The tokens of a sample as the model got them: what went in, and the last one asked for."""
        at = visit.step - 1, visit.sample - (visit.step - 1) * SAMPLES
        return [*self.recorded.inputs[at].tolist(), int(self.recorded.targets[at][-1])]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    """A recorded project, and what lineage says of all of its documents."""
    recorded = record(tmp_path_factory.mktemp("recorded") / "project")
    root = recorded.project.folder
    build = build_at(root)
    with checked_out(root, build, WANTED) as folder:
        plan = plan_of(root, build, folder)
        ways = {place.id: way_of(root, build, folder, place, plan) for place in every(folder)}
        visits = {id: visits_of(plan, way) for id, way in ways.items()}
        tokenizer = Tokenizer.from_file(str(root / "models/tokenizer/tokenizer.json"))
        yield Followed(recorded, folder, plan, ways, visits, tokenizer)


def every(folder: Path) -> list[Place]:
    """Every document of the build."""
    return find(folder, pl.lit(True))


def trained(followed: Followed) -> list[Way]:
    """200 random documents that were trained on."""
    found = [way for way in followed.ways.values() if way.split == "train"]
    return random.Random(1).sample(found, FOLLOWED)


def test_200_documents_are_read_out_of_the_batches_that_the_model_got(followed):
    whole = 0
    for way in trained(followed):
        pieces = pieces_of(followed, way)
        tokens = [pieces.get(position) for position in range(way.tokens.begin, way.tokens.end)]

        assert pieces, way.origin
        if None not in tokens:  # every window that holds it was drawn
            whole += 1
            assert followed.tokenizer.decode(tokens[:-1]) == followed.recorded.texts[way.origin].strip("\n")
            assert followed.tokenizer.id_to_token(tokens[-1]) == "<|endoftext|>"

    assert whole > FOLLOWED / 2


def pieces_of(followed: Followed, way: Way) -> dict[int, int]:
    """The tokens of a document by position, out of the samples that trace names; equal wherever two overlap."""
    pieces: dict[int, int] = {}
    for visit in followed.visits[way.id]:
        begin = visit.window * LENGTH
        own = {
            at: token for at, token in enumerate(followed.row(visit), begin) if way.tokens.begin <= at < way.tokens.end
        }
        assert own, f"{visit} has nothing of {way.origin}"
        for at, token in own.items():
            assert pieces.setdefault(at, token) == token
    return pieces


def test_a_step_names_exactly_the_documents_that_stand_in_its_batch(followed):
    streams = {source: Stream.read(followed.folder, source) for source in followed.plan.order.windows}

    for step in range(1, STEPS + 1):
        found: dict[str, int] = {}
        for row in rows(followed.recorded, step):
            for id, tokens in documents_of(row, streams):
                found[id] = found.get(id, 0) + tokens

        assert said(followed, step, step) == found
        assert sum(found.values()) == SAMPLES * LENGTH


@dataclass(frozen=True)
class Stream:
    """All tokens of a source in one piece, and whose each is, read without the code that is tested."""

    tokens: np.ndarray
    owners: list[str]

    @staticmethod
    def read(folder: Path, source: str) -> "Stream":
        place = folder / "data/tokenize" / source
        tokens = np.concatenate([np.fromfile(path, "<u2") for path in sorted(place.glob("*.bin"))])
        sidecars = [pl.read_parquet(path) for path in sorted(place.glob("documents-*.parquet"))]
        owners = [id for table in sidecars for id, _, count in table.iter_rows() for _ in range(count)]
        assert len(owners) == len(tokens)
        return Stream(tokens, owners)


def rows(recorded: Recorded, step: int) -> np.ndarray:
    """What the model got and was asked for in a step: a row of LENGTH + 1 tokens for each sample."""
    targets = recorded.targets[step - 1]
    assert (recorded.inputs[step - 1][:, 1:] == targets[:, :-1]).all()
    return np.concatenate([recorded.inputs[step - 1], targets[:, -1:]], axis=1)


def documents_of(row: np.ndarray, streams: dict[str, Stream]) -> list[tuple[str, int]]:
    """The documents whose tokens a row has, and how many of them are asked for; it is searched for in the streams."""
    found = []
    for stream in streams.values():
        every_window = np.lib.stride_tricks.sliding_window_view(stream.tokens, LENGTH + 1)
        found += [(stream, int(at)) for at in np.flatnonzero((every_window == row).all(axis=1))]
    assert len(found) == 1, "the corpus repeats itself: a row stands in more than one place, or in none"
    stream, at = found[0]
    owners = stream.owners[at : at + LENGTH + 1]
    return [(id, owners[1:].count(id)) for id in dict.fromkeys(owners)]


def said(followed: Followed, first: int, last: int) -> dict[str, int]:
    """What trace says of these steps: tokens by document."""
    tables = [named(followed.folder, part) for part in parts(followed.folder, followed.plan, first, last)]
    return {id: tokens for table in tables for id, tokens in table.select("id", "tokens").iter_rows()}


def test_the_steps_of_a_document_are_the_steps_that_name_it(followed):
    by_step = {step: said(followed, step, step).keys() for step in range(1, STEPS + 1)}

    for id, visits in followed.visits.items():
        assert {visit.step for visit in visits} == {step for step, ids in by_step.items() if id in ids}
        assert followed.ways[id].trained is None or followed.ways[id].trained.steps == [visit.step for visit in visits]


def test_what_a_checkpoint_has_seen_is_the_sum_of_its_steps(followed):
    total: dict[str, int] = {}
    for step in range(1, 31):
        for id, tokens in said(followed, step, step).items():
            total[id] = total.get(id, 0) + tokens

    content = content_of(followed.folder, followed.plan, 1, 30)

    assert said(followed, 1, 30) == total
    assert content.tokens == sum(share.tokens for share in content.shares) == 30 * SAMPLES * LENGTH
    assert {(share.source, share.license, share.documents) for share in content.shares} == {
        (source, "CC0-1.0", len([id for id in total if followed.ways[id].source == source]))
        for source in ("stories", "scripts")
    }
    assert content.top[0].tokens == max(total.values())


def test_what_a_language_model_wrote_is_marked_and_an_older_ledger_marks_nothing(followed, tmp_path):
    shutil.copytree(followed.folder / "data", tmp_path / "data")
    for path in (tmp_path / "data/dedup").glob("*/decisions-*.parquet"):
        ledger = pl.read_parquet(path)
        is_old = path.parent.name == "scripts"
        write_shard(path, ledger.drop("synthetic") if is_old else ledger.with_columns(synthetic=pl.lit(True)))
    for folder in (tmp_path / "data/dedup").iterdir():
        write_manifest(folder, {})

    content = content_of(tmp_path, followed.plan, 1, STEPS)

    assert {(share.source, share.synthetic) for share in content.shares} == {("stories", True), ("scripts", False)}
    assert {(each.source, each.synthetic) for each in content.top} <= {("stories", True), ("scripts", False)}
    assert not any(each.synthetic for each in content_of(followed.folder, followed.plan, 1, STEPS).shares)


def test_the_checkpoints_around_a_step_are_the_last_without_it_and_the_first_with_it(followed):
    assert followed.plan.checkpoints == (30, 60)
    for visits in followed.visits.values():
        for visit in visits:
            around = "none", "step-00000030"
            if visit.step > 30:
                around = "step-00000030", "step-00000060"
            if visit.step > 60:
                around = "step-00000060", "models/base"
            assert (visit.before, visit.after) == around


# ---- what was dropped --------------------------------------------------------------------------------------------


def test_200_dropped_documents_have_the_reason_that_the_rules_give_by_hand(followed):
    texts = followed.recorded.texts
    dropped = [way for way in followed.ways.values() if way.ended is not None]
    seen = set()

    for way in random.Random(2).sample(dropped, FOLLOWED):
        seen.add(way.ended.rule)
        if way.ended.duplicate_of is None:
            assert way.ended.rule == f"gopher_quality.{reason(texts[way.origin])}"
            continue
        own, kept = texts[way.origin], texts[way.ended.duplicate_origin]
        assert reason(own) is None
        assert way.ended.rule == (
            "exact_duplicate" if own.lower().split() == kept.lower().split() else "near_duplicate"
        )
        assert followed.ways[way.ended.duplicate_of].ended is None
        assert abs(way.ended.similarity - jaccard(own, kept)) < 0.15

    assert len(seen) == 11


def test_what_is_trained_on_breaks_no_rule_by_hand(followed):
    for way in trained(followed):
        if way.source == "stories":
            assert reason(followed.recorded.texts[way.origin]) is None
            assert all(question.holds for question in way.rules)


def test_a_record_without_text_is_found_where_its_way_ended(followed):
    root = followed.recorded.project.folder
    for origin in [origin for origin, text in followed.recorded.texts.items() if not text.strip()]:
        answer = answer_of(root, build_at(root), origin, None)

        assert [(bad.origin, bad.rule) for bad in answer.unreadable] == [(origin, "empty")]
        assert not answer.ways


def reason(text: str) -> str | None:
    """The first rule of Gopher's quality rules that `text` breaks, as its paper has them (Rae et al. 2021, A1.1)."""
    words, lines = re.findall(r"\w+(?:'\w+)*", text), [line.strip() for line in text.split("\n") if line.strip()]
    count = len(words)
    rules = {
        "min_words": count < 50,
        "max_words": count > 100_000,
        "min_mean_word_length": sum(map(len, words)) / count < 3,
        "max_mean_word_length": sum(map(len, words)) / count > 10,
        "max_hash_to_word_ratio": text.count("#") / count > 0.1,
        "max_ellipsis_to_word_ratio": text.count("...") / count > 0.1,
        "max_bullet_line_ratio": sum(line[0] in "•*-" for line in lines) / len(lines) > 0.9,
        "max_ellipsis_line_ratio": sum(line.endswith("...") for line in lines) / len(lines) > 0.3,
        "min_alphabetic_word_ratio": sum(any(map(str.isalpha, word)) for word in words) / count < 0.8,
        "min_stop_words": len({"the", "be", "to", "of", "and", "that", "have", "with"} & set(words)) < 2,
    }
    return next((name for name, broken in rules.items() if broken), None)


def jaccard(one: str, other: str) -> float:
    """The share of their five words in a row that two texts have in common."""
    first, second = (
        {tuple(words[at : at + 5]) for at in range(len(words) - 4)}
        for words in (re.findall(r"\w+", text.lower()) for text in (one, other))
    )
    return len(first & second) / len(first | second)


# ---- the command line --------------------------------------------------------------------------------------------


def asked(followed: Followed, *arguments: str) -> str:
    """What `pedigree` answers in the recorded project."""
    done = followed.recorded.project.run(sys.executable, "pedigree.py", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_gives_the_documents_of_steps_and_the_steps_of_a_document(followed):
    id = trained(followed)[0].id

    step = json.loads(asked(followed, "trace", "--steps", "3:5", "--json"))
    document = json.loads(asked(followed, "trace", "--document", id, "--json"))

    assert {each["id"]: each["tokens"] for each in step["documents"]} == said(followed, 3, 5)
    assert [Visit(**visit) for visit in document["visits"]] == followed.visits[id]
