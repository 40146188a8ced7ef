"""The whole pipeline on a tiny corpus: complete, rebuilt in part, rebuilt alike, also after kills."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import torch
from tiny import NOUNS, Project, make_project
from transformers import AutoModelForCausalLM, AutoTokenizer

from flows.publication.gate import compare
from flows.publication.publish import evaluation_here
from infra.ports import free_port
from plan.devices import DEVICES, Machines
from plan.plan import make_plan
from stages.mixture import load_mixture
from stages.order import Sample, count_windows
from stages.params import load_params
from stages.pretrain.params import PretrainParams

SOURCES = ("stories", "scripts")


def ran(said: str) -> set[str]:
    """The stages that `dvc repro` says it ran."""
    return set(re.findall(r"Running stage '(.+?)'", said))


def test_no_document_is_lost_on_the_way(built):
    for source in SOURCES:
        extracted, filtered, deduplicated, tokenized = (
            built.json(f"data/{stage}/{source}/manifest.json")["counts"]
            for stage in ("extract", "filter", "dedup", "tokenize")
        )

        assert extracted["kept"] == filtered["read"]
        assert filtered["kept"] == deduplicated["read"]
        assert deduplicated["kept"] == deduplicated["train"] + deduplicated["held_out"]
        assert deduplicated["train"] == tokenized["documents"]
        for counts in (extracted, filtered, deduplicated):
            assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())


def test_planted_duplicates_and_short_documents_are_dropped(built):
    filtered, deduplicated = (
        built.json(f"data/{stage}/stories/manifest.json")["counts"]["dropped"] for stage in ("filter", "dedup")
    )

    assert sum(filtered.values()) == 1  # "Too short."; the empty one never became a document
    assert deduplicated == {"exact_duplicate": 1, "near_duplicate": 1}


def test_every_token_has_an_owner(built):
    for source in SOURCES:
        sidecars = sorted((built.folder / "data/tokenize" / source).glob("documents-*.parquet"))
        owned = sum(int(pl.read_parquet(path)["tokens"].sum()) for path in sidecars)

        assert owned == built.json(f"data/tokenize/{source}/manifest.json")["counts"]["tokens"]


def test_held_out_documents_are_in_no_token_shard(built):
    for source in SOURCES:
        decisions = pl.concat(map(pl.read_parquet, (built.folder / "data/dedup" / source).glob("decisions-*.parquet")))
        owners = pl.concat(map(pl.read_parquet, (built.folder / "data/tokenize" / source).glob("documents-*.parquet")))
        held_out = set(decisions.filter(pl.col("split") == "held_out")["id"])

        assert held_out
        assert not held_out & set(owners["id"])


def test_the_base_model_loads_in_transformers_and_writes(built):
    folder = built.folder / "models/base"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    tokens = model.generate(**tokenizer("The old", return_tensors="pt"), max_new_tokens=5, do_sample=False)

    assert tokenizer.decode(tokens[0]).startswith("The old")


def test_the_base_model_is_laid_out_as_servers_read_it(built):
    folder = built.folder / "models/base"
    config = json.loads((folder / "config.json").read_text())

    assert {path.name for path in folder.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json", "README.md",
    }  # fmt: skip
    assert (config["architectures"], config["model_type"], config["dtype"]) == (
        ["LlamaForCausalLM"],
        "llama",
        "float32",
    )


def test_checkpoints_are_published_by_the_schedule(built):
    names = sorted(path.name for path in (built.folder / "models/checkpoints").iterdir())

    assert names == ["step-00000020", "step-00000040"]


def test_the_model_beats_its_untrained_twin(built):
    scores = built.json("metrics/evaluate.json")["bits_per_byte"]

    assert scores["model"] < scores["untrained"] - 0.5
    assert set(scores) == {"model", "untrained", "xz", "xz_primed", "order2"}


def test_the_scores_of_the_documents_add_up_to_the_metrics(built):
    metrics, scores = built.json("metrics/evaluate.json"), pl.read_parquet(built.folder / "metrics/held_out.parquet")

    assert scores["id"].is_unique().all()
    for source, wanted in metrics["sources"].items():
        mine = scores.filter(pl.col("source") == source)
        bounds = metrics["intervals"]["sources"][source]
        assert (len(mine), mine["bytes"].sum()) == (wanted["documents"], wanted["bytes"])
        assert mine["bits"].sum() / mine["bytes"].sum() == pytest.approx(wanted["model"], abs=1e-3)
        assert bounds["low"] < wanted["model"] < bounds["high"]
    assert scores["bits"].sum() / scores["bytes"].sum() == pytest.approx(metrics["bits_per_byte"]["model"], abs=1e-3)


def test_the_gate_reads_what_evaluate_writes(built):
    evaluation = evaluation_here(built.folder)

    found = compare(evaluation, evaluation)

    assert [row.name for row in found.rows] == ["all sources", "scripts", "stories"]
    assert all(row.how.endswith(" documents, paired") for row in found.rows)
    assert (found.reasons, found.notes) == ((), ())


def test_dvc_shows_metrics_plots_and_the_dag(copy):
    metrics, dag = copy.run("dvc", "metrics", "show"), copy.run("dvc", "dag")
    plots = copy.run("dvc", "plots", "show", "-o", "drawn")

    assert "bits_per_byte" in metrics.stdout
    assert "pretrain" in dag.stdout
    assert plots.returncode == 0
    assert "smoothed" in (copy.folder / "drawn/index.html").read_text(encoding="utf-8")


def test_nothing_is_done_again_when_nothing_changed(copy):
    assert ran(copy.repro()) == set()


def test_a_changed_threshold_rebuilds_only_what_follows(copy):
    copy.set("sources.stories.filter.gopher_quality", {"min_words": 20, "min_stop_words": 3})

    stages = ran(copy.repro("dedup"))

    assert stages == {"filter@stories"}  # its decisions are the same, so nothing follows


def test_a_changed_decision_reaches_the_model_by_what_lies_between(copy):
    words = pl.read_parquet(copy.folder / "data/extract/stories/signals-00000.parquet")["words"]
    copy.set("sources.stories.filter.gopher_quality", {"min_words": int(words.sort()[10])})

    stages = ran(copy.repro())

    assert stages == {
        "filter@stories", "dedup", "tokenizer", "tokenize@stories", "tokenize@scripts", "pretrain", "evaluate",
    }  # fmt: skip
    assert copy.json("data/filter/stories/manifest.json")["counts"]["dropped"]["gopher_quality.min_words"] > 1


def test_a_source_is_seen_as_often_as_its_epochs_say_and_the_plan_knew_it(copy, monkeypatch):
    monkeypatch.chdir(copy.folder)
    counts = {source: copy.json(f"data/tokenize/{source}/manifest.json")["counts"]["tokens"] for source in SOURCES}
    windows = {source: count_windows(tokens, 32) for source, tokens in counts.items()}
    samples = (5 * windows["scripts"] // 8 + 2) * 8  # whole steps, with some samples for stories
    copy.set("mixture.scripts", {"epochs": 5})
    copy.set("pretrain.tokens", samples * 32)
    copy.set("pretrain.block_samples", samples)
    planned = {each.source: each.epochs for each in make_plan(None, Machines(1, DEVICES["h100"])).portions}
    order = load_params(PretrainParams, "pretrain").sample_order(load_mixture(), windows)
    drawn = Counter(order.sample(number) for number in range(samples))

    done = copy.stage("pretrain")

    assert done.returncode == 0, done.stderr
    seen = copy.json("metrics/pretrain.json")["epochs"]
    assert seen["scripts"] == planned["scripts"] == 5
    assert seen["stories"] == round(planned["stories"], 4) < 1
    for window in range(windows["scripts"]):
        assert all(drawn[Sample("scripts", epoch, window)] == 1 for epoch in range(5))
    assert "scripts is seen 5.0 times; past 4, more teaches less" in done.stderr


def test_a_new_source_adds_its_own_fingerprints_and_those_that_are_there_stay(copy):
    lines = [json.dumps({"text": f"{word.title()} is a word that no other line of this file has."}) for word in NOUNS]
    (copy.folder / "corpus/words.jsonl").write_text("\n".join(lines), encoding="utf-8")
    copy.set("sources.words", {
        "download": {"kind": "files", "urls": ["corpus/words.jsonl"]}, "extract": {"format": "jsonl"}, "filter": {},
    })  # fmt: skip
    copy.set("mixture.words", 1)
    copy.lock()
    before = {path: digest for path, digest in copy.outs().items() if path.startswith("data/fingerprint/")}

    stages = ran(copy.repro("dedup"))

    assert stages == {"download@words", "extract@words", "filter@words", "fingerprint@words", "dedup"}
    assert before.items() < copy.outs().items()
    assert len(before) == 2


def test_a_second_build_with_other_workers_is_the_same_byte_for_byte(built, project):
    project.repro(workers=4, micro_batch=16, checkpoint_seconds=0)

    assert project.outs() == built.outs()


@pytest.mark.long
def test_a_build_killed_at_random_moments_ends_the_same(built, project):
    draw = random.Random(3)
    for _ in range(3):
        command = ["dvc", "repro"]
        process = subprocess.Popen(
            command, cwd=project.folder, env=project.environment(checkpoint_seconds=0), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(draw.uniform(4, 25))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    project.repro(checkpoint_seconds=0)

    assert project.outs() == built.outs()


def start_pretrain(project: Project) -> subprocess.Popen[str]:
    """A pretrain that has written its first checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.pretrain"], cwd=project.folder, text=True,
        env=project.environment(checkpoint_seconds=0), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while process.poll() is None and not list((project.folder / "scratch").glob("pretrain/*/step-????????")):
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    return process


def weights(project: Project) -> bytes:
    return (project.folder / "models/base/model.safetensors").read_bytes()


@pytest.fixture
def untrained(copy: Project) -> Project:
    """A built project without scratch, so that pretrain begins anew."""
    subprocess.run(["rm", "-r", copy.folder / "scratch"], check=True)
    return copy


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75)])
def test_a_killed_pretrain_goes_on_from_its_newest_checkpoint(built, untrained, sent, code):
    process = start_pretrain(untrained)
    process.send_signal(sent)
    process.communicate()

    again = untrained.stage("pretrain")

    assert process.returncode == code
    assert "going on after step" in again.stderr
    assert weights(untrained) == weights(built)
    assert (untrained.folder / "plots/loss.csv").read_bytes() == (built.folder / "plots/loss.csv").read_bytes()


def test_a_second_pretrain_on_the_same_scratch_is_refused(untrained):
    first = start_pretrain(untrained)
    first.send_signal(signal.SIGSTOP)  # alive, and not done before the second one asks
    second = untrained.stage("pretrain")
    first.kill()
    first.communicate()

    assert second.returncode == 2
    assert re.search(r"error: scratch/pretrain/\w+ is in use by another pretrain \(process \d+\)", second.stderr)


def test_a_corrupt_checkpoint_costs_time_only(built, untrained):
    process = start_pretrain(untrained)
    process.terminate()
    process.communicate()
    newest = max((untrained.folder / "scratch").glob("pretrain/*/step-????????"))
    with (newest / "model.safetensors").open("r+b") as file:
        file.truncate(100)

    again = untrained.stage("pretrain")

    assert f"{newest.name}/model.safetensors is damaged" in again.stderr
    assert weights(untrained) == weights(built)


def losses(project: Project) -> torch.Tensor:
    table = pl.read_csv(project.folder / "plots/loss.csv")
    return torch.tensor(table["loss"].to_list())


@pytest.mark.parametrize("how", [{"micro_batch": 3}, {"launch": "--num_processes 2 --cpu"}])
def test_micro_batches_and_processes_change_the_loss_by_rounding_only(built, untrained, how):
    done = untrained.stage("pretrain", **how)

    assert done.returncode == 0, done.stderr
    assert torch.allclose(losses(untrained), losses(built), atol=2e-3)


def test_a_masked_model_is_trained_and_scored(copy):
    copy.set("tokenizer.mask_token", "<|mask|>")
    copy.set("pretrain.objective", "masked")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    copy.set("pretrain.model", {"model_type": "bert", **sizes})

    copy.repro()

    metrics = copy.json("metrics/evaluate.json")
    scores, masked = metrics["bits_per_byte"], metrics["masked"]
    assert scores["model"] < scores["untrained"]
    assert masked["tokens"] == sum(each["tokens"] for each in masked["sources"].values())
    assert 1 < masked["pseudo_perplexity"] < 400  # tokens in the vocabulary
    assert 0 < masked["accuracy"] < 1
    assert "BertForMaskedLM" in (copy.folder / "models/base/config.json").read_text(encoding="utf-8")


def test_the_same_text_in_other_shards_is_the_same_documents(built, tmp_path):
    project = make_project(tmp_path / "project")
    project.set("sources.scripts.extract.shard_bytes", 3000)
    project.stage("download", "scripts")
    project.stage("extract", "scripts")

    def documents(folder: Path) -> pl.DataFrame:
        paths = sorted((folder / "data/extract/scripts").glob("documents-*.parquet"))
        return pl.concat(map(pl.read_parquet, paths)).sort("id")

    assert documents(project.folder).equals(documents(built.folder))


RANKS = """
import os, runpy
os.environ["PEDIGREE_SCRATCH"] = f"scratch-of-{os.environ['RANK']}"  # as on nodes that share no disk
runpy.run_module("stages.pretrain", run_name="__main__")
"""


@pytest.mark.long
def test_processes_that_share_no_disk_stop_together_and_go_on_from_the_checkpoint_of_the_first(untrained):
    (untrained.folder / "ranks.py").write_text(RANKS)
    untrained.set("pretrain.tokens", 8 * 256)
    meeting = ["--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    command = [sys.executable, "-m", "torch.distributed.run", *meeting, "ranks.py"]
    settings = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    environment = untrained.environment(checkpoint_seconds=0) | settings

    def train() -> str:
        with (untrained.folder / "said").open("wb") as said:
            done = subprocess.run(command, cwd=untrained.folder, env=environment, stdout=said, stderr=said, check=False)
        text = (untrained.folder / "said").read_text()
        assert done.returncode == 0, text
        return text

    train()
    expected = weights(untrained)
    (last,) = untrained.folder.glob("scratch-of-0/pretrain/*/step-00000008")
    shutil.rmtree(last)

    said = train()

    assert said.count("going on after step 7, from scratch-of-0") == 1
    assert said.count("going on after step 7, from scratch-of-1") == 1
    assert weights(untrained) == expected
