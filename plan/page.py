"""A plan as a page for people, with the formula beside each figure, and as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from plan.compute import MARKS, SECONDS_PER_DAY, marks_passed
from plan.layout import FULL
from plan.memory import Layout
from plan.plan import Plan
from stages.order import WORTHWHILE_EPOCHS

UNKNOWN = "unknown"
ACTIVE_PRECISION = {"fp32": "fp32"}  # any other is bf16 on the devices that plan knows


def as_text(plan: Plan) -> str:
    """The whole page."""
    sections = (corpus, model, compute, time, memory, disk)
    return "\n\n".join("\n".join(section(plan)) for section in sections)


def corpus(plan: Plan) -> Iterator[str]:
    """What is trained on."""
    params = plan.params
    yield f"{plan.name}: {plan.tokens:,} tokens in {params.steps:,} steps of {params.tokens_per_step:,}"
    yield row("source", "share", "tokens drawn", "documents", "tokens held", "epochs")
    for each in plan.portions:
        yield row(
            each.source, UNKNOWN if each.share is None else f"{each.share:.1%}", count(each.drawn_tokens),
            count(each.documents), count(each.tokens), UNKNOWN if each.epochs is None else f"{each.epochs:.4f}",
        )  # fmt: skip
    for each in plan.portions:
        if each.epochs is not None and each.epochs > WORTHWHILE_EPOCHS:
            yield f"  {each.source} is seen {each.epochs:.1f} times: past {WORTHWHILE_EPOCHS}, it teaches ever less"
    if any(each.tokens is None for each in plan.portions):
        yield "  unknown: not counted yet; `dvc repro tokenize` counts the sources of params.yaml"


def row(name: str, *cells: str) -> str:
    """One line of a table."""
    return f"  {name:<16}" + "".join(f"{cell:>21}" for cell in cells)


def gigabytes(size: float) -> str:
    """Bytes in GB, as makers count them; in MB if they are few."""
    return f"{size / 1e9:>12,.2f} GB" if size >= 1e8 else f"{size / 1e6:>12,.2f} MB"


def duration(days: float) -> str:
    """Days, or of a shorter time the seconds."""
    return f"{days:,.2f} days" if days >= 1 else f"{days * SECONDS_PER_DAY:,.2f} s"


def count(number: int | None) -> str:
    """A whole number, if it is known."""
    return UNKNOWN if number is None else f"{number:,}"


def model(plan: Plan) -> Iterator[str]:
    """Its parameters by part."""
    shape = plan.shape
    yield (
        f"Model: {shape.architecture}, {shape.layers} layers of width {shape.width:,}, {shape.heads} heads "
        f"({shape.key_heads} of keys), MLP of {shape.inner:,}, {shape.vocabulary:,} tokens"
    )
    for part, number in shape.parts.items():
        tied = " (the embedding)" if part == "head" and shape.is_tied else ""
        yield f"  {part:<22}{number:>21,}{tied}"
    yield f"  {'all, N':<22}{shape.parameters:>21,}"
    yield f"  {'without embeddings':<22}{shape.non_embedding_parameters:>21,}  (no tokens, positions, head)"
    if plan.published:
        yield f"  {'published':<22}{plan.published.parameters:>21,.0f}  {plan.published.source}"


def compute(plan: Plan) -> Iterator[str]:
    """Its FLOPs by the rule of thumb, by part, and as published."""
    yield "Compute (FLOPs)"
    yield f"  6·N·D = 6 x {plan.shape.parameters:.4g} x {plan.tokens:.4g} = {plan.six_nd:.3g}"
    by_part = plan.flops
    for part, flops in by_part.items():
        formula = "12 x layers x width x length x D" if part == "attention scores" else "6 x its parameters x D"
        yield f"  {part:<22}{flops:>12.3g}  {formula}"
    total = sum(by_part.values())
    yield f"  {'all of them':<22}{total:>12.3g}  {total / plan.six_nd:.3f} of 6·N·D"
    if plan.published and plan.published.flops:
        yield f"  {'published':<22}{plan.published.flops:>12.3g}  {plan.published.source}"
    passed = marks_passed(plan.six_nd)
    for mark, meaning in MARKS.items():
        yield f"  {'above' if mark in passed else 'below'} {mark:.0e}: {meaning} (EU AI Act)"


def time(plan: Plan) -> Iterator[str]:
    """How long it takes, and what it costs."""
    device, precision = plan.machines.device, ACTIVE_PRECISION.get(plan.params.precision, "bf16")
    peak = device.peak(plan.params.precision)
    yield f"Time on {plan.machines} ({device.source}: {peak / 1e12:,.1f} TFLOP/s in {precision})"
    yield f"  {duration(plan.days)} = all of them / ({plan.machines.count} x {peak:.4g} x MFU {plan.mfu:g})"
    yield f"  {plan.device_hours:,.2f} device hours; MFU {plan.mfu:g} is assumed, not measured (--mfu)"
    if plan.cost is not None:
        yield f"  price: {plan.device_hours:,.2f} x {plan.price:g} = {plan.cost:,.2f}"


def memory(plan: Plan) -> Iterator[str]:
    """The layout that fits, and what each device holds."""
    device = plan.machines.device
    if plan.fit is None:
        more = f"the fewest that hold it are {plan.fewest}" if plan.fewest else "it fits on no number of them"
        yield f"Memory: no layout of {plan.machines} holds it and divides the samples of a step; {more}"
        return
    yield f"Memory of each device, at most {FULL:.0%} of {device.memory / 1e9:g} GB; {layout(plan.fit.layout)}"
    for part, size in plan.fit.memory.items():
        yield f"  {part:<22}{gigabytes(size)}"
    yield f"  {'all of them':<22}{gigabytes(sum(plan.fit.memory.values()))}"


def layout(chosen: Layout) -> str:
    """A layout in words that Accelerate knows."""
    sizes = f"dp_replicate {chosen.replicas} x dp_shard {chosen.shards} x tp {chosen.tensor} x cp {chosen.context}"
    recompute = "recomputed" if chosen.recompute else "kept"
    return f"{sizes}, {chosen.accumulation} x {chosen.micro_batch} samples, activations {recompute}"


def disk(plan: Plan) -> Iterator[str]:
    """What is written."""
    yield "Disk"
    yield f"  {'weights, fp32':<22}{gigabytes(plan.weights_bytes)}  4·N"
    yield f"  {'with optimizer states':<22}{gigabytes(plan.state_bytes)}  each checkpoint in scratch"
    whole = (plan.checkpoints + 1) * plan.weights_bytes
    yield f"  {'published':<22}{gigabytes(whole)}  {plan.checkpoints} checkpoints and the model"


def as_json(plan: Plan) -> str:
    """All figures of the page, exact."""
    fit = plan.fit
    found: dict[str, Any] = {
        "name": plan.name,
        "tokens": plan.tokens,
        "steps": plan.params.steps,
        "sources": [asdict(each) for each in plan.portions],
        "parameters": {
            "by_part": dict(plan.shape.parts),
            "total": plan.shape.parameters,
            "embedding": plan.shape.embedding_parameters,
            "non_embedding": plan.shape.non_embedding_parameters,
        },
        "flops": {"six_nd": plan.six_nd, "by_part": plan.flops, "total": sum(plan.flops.values())},
        "marks_passed": list(marks_passed(plan.six_nd)),
        "published": asdict(plan.published) if plan.published else None,
        "machines": {"count": plan.machines.count, **asdict(plan.machines.device)},
        "mfu": plan.mfu,
        "days": plan.days,
        "device_hours": plan.device_hours,
        "cost": plan.cost,
        "layout": asdict(fit.layout) if fit else None,
        "memory_bytes": fit.memory if fit else None,
        "fewest_devices": plan.fewest,
        "disk_bytes": {
            "weights": plan.weights_bytes,
            "state": plan.state_bytes,
            "published_checkpoints": plan.checkpoints,
        },
    }
    return json.dumps(found, indent=2)
