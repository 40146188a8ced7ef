"""The model and all that it is made of, as a CycloneDX 1.6 machine-learning bill of materials (ECMA-424).

    Facts  ->  {"bomFormat": "CycloneDX", …}

The model is the subject, with its model card; a data component stands for each source, with the files that were
downloaded for it; the locked Python packages are libraries. The serial number is a function of dvc.lock, and nothing
tells a time, so equal builds have equal bills.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from lineage.export.facts import UNKNOWN, Facts, File, Source, by

MODEL = "model"
APPROACH = "self-supervised"
TASKS = {"causal": "text-generation", "masked": "fill-mask"}
LIMITATIONS = (
    "A base model: neither aligned nor tuned to instructions.",
    "Nothing keeps it from writing what is false, harmful, or copied from its training text.",
    "Biases of the training text were not measured.",
)


def bill(facts: Facts) -> dict[str, Any]:
    """The bill of materials of the build."""
    sources = [of_source(source) for source in facts.sources]
    libraries = list(of_lock(facts.requirements or ""))
    made_of = [component["bom-ref"] for component in (*sources, *libraries)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, f'urn:pedigree:dvc.lock:sha256:{facts.digest}')}",
        "version": 1,
        "metadata": {
            "component": of_model(facts),
            "tools": {"components": [{"type": "application", "name": "pedigree"}]},
        },
        "components": [*sources, *libraries],
        "dependencies": [{"ref": MODEL, "dependsOn": made_of}, *({"ref": ref} for ref in made_of)],
        "properties": [*properties(lock_sha256=facts.digest, commit=facts.commit or UNKNOWN)],
    }


def of_model(facts: Facts) -> dict[str, Any]:
    """The base model, with its card. Without a model in the build, its digests and numbers are left out."""
    weights = [file for file in facts.model if file.path.endswith(".safetensors")]
    known = {"version": facts.version} if facts.version else {}
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": "base",
        **known,
        "description": "A base language model, trained from random weights on text alone.",
        # Of several files of weights, the digest stands with each of them below.
        **({"hashes": [sha256(weights[0].sha256)]} if len(weights) == 1 else {}),
        "components": [of_file(file) for file in facts.model],
        "modelCard": card(facts),
        "properties": [
            *properties(
                license=UNKNOWN,
                parameters=facts.pretrain.get("parameters", UNKNOWN),
                training_tokens=facts.pretrain.get("tokens", UNKNOWN),
                training_flops=facts.pretrain.get("flops", UNKNOWN),
                dvc_md5=out.md5 if (out := facts.build.outs.get("models/base")) else UNKNOWN,
            )
        ],
    }


def card(facts: Facts) -> dict[str, Any]:
    """CycloneDX's model card."""
    pretrain = facts.params.get("pretrain") or {}
    asked = pretrain.get("model") or {}
    architectures = facts.config.get("architectures") or [asked.get("model_type", UNKNOWN)]
    return {
        "modelParameters": {
            "approach": {"type": APPROACH},
            "task": TASKS.get(pretrain.get("objective", "causal"), UNKNOWN),
            "architectureFamily": asked.get("model_type", UNKNOWN),
            "modelArchitecture": ", ".join(architectures),
            "datasets": [{"ref": reference(source)} for source in facts.sources],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(scores(facts.evaluate))},
        "considerations": {"technicalLimitations": list(LIMITATIONS)},
    }


def scores(evaluate: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Bits per byte in all and on each source, and the tasks, with intervals; nothing if it wasn't evaluated."""
    sure = evaluate.get("intervals") or {}
    parts = {"all sources": (evaluate.get("bits_per_byte"), sure.get("all"))}
    for name, values in (evaluate.get("sources") or {}).items():
        parts[name] = (values, (sure.get("sources") or {}).get(name))
    for part, (values, interval) in parts.items():
        if values and "model" in values:
            yield score(part, values["model"], interval)
    for name, task in (evaluate.get("tasks") or {}).items():
        yield score(f"task {name}", task["value"], task, "score of a task")


def score(
    part: str,
    value: float,
    interval: Mapping[str, float] | None,
    kind: str = "bits per byte on held-out text (less is better)",
) -> dict[str, Any]:
    """One score, of what `part` names."""
    bounds = {"lowerBound": str(interval["low"]), "upperBound": str(interval["high"])} if interval else None
    known = {"confidenceInterval": bounds} if bounds else {}
    return {"type": kind, "value": str(value), "slice": part, **known}


def of_source(source: Source) -> dict[str, Any]:
    """A source: its documents by digest, their licences, and the files that they were read from."""
    counts = source.counts
    trained = source.tally.filter(source.tally["trained"])
    digest = hashlib.sha256("".join(f"{file.sha256}\n" for file in source.documents).encode()).hexdigest()
    return {
        "type": "data",
        "bom-ref": reference(source),
        "name": source.name,
        # One digest for all shards: that of their digests, a line each, in order.
        "hashes": [sha256(digest)],
        "licenses": [licence(row["license"]) for row in by(source.tally, "license")] or [licence(None)],
        "data": [{"type": "dataset", "name": source.name, "description": "Documents of text, before any was dropped."}],
        "components": [*map(of_file, source.downloaded), *of_packages(source)],
        "properties": [
            *properties(
                documents_read=counts.read if counts else UNKNOWN,
                documents_trained_on=UNKNOWN if counts is None or counts.trained is None else counts.trained,
                bytes_trained_on=UNKNOWN if trained["bytes"].has_nulls() else trained["bytes"].sum(),
                tokens=UNKNOWN if counts is None or counts.tokens is None else counts.tokens,
            ),
            *({"name": "pedigree:url", "value": url} for url in source.urls),
        ],
    }  # fmt: skip


def of_packages(source: Source) -> Iterable[dict[str, Any]]:
    """The packages that carried the text of a source, by their purl. They were read as archives, not installed."""
    wheels = {file.path.rpartition("/")[2]: file.sha256 for file in source.downloaded}
    for package in source.packages:
        # As it was downloaded: only older builds, and those who ask for it, have it in params.yaml, too.
        digest = wheels.get(f"{package['name']}.whl") or package.get("sha256")
        name, version = canonicalize_name(package["name"]), str(package["version"])
        yield {
            "type": "file",
            "bom-ref": f"{reference(source)}/{name}@{version}",
            "name": package["name"],
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            **({"hashes": [sha256(digest)]} if digest else {}),
        }


def of_file(file: File) -> dict[str, Any]:
    """A file by its path in the project."""
    return {"type": "file", "bom-ref": file.path, "name": file.path, "hashes": [sha256(file.sha256)]}


def of_lock(requirements: str) -> Iterable[dict[str, Any]]:
    """The locked Python packages; one that is for some platforms only says which."""
    seen = set()
    for line in requirements.splitlines():
        try:
            package = Requirement(line.partition(" #")[0].strip())
        except InvalidRequirement:  # a comment, an option of pip
            continue
        pins = [pin.version for pin in package.specifier if pin.operator == "=="]
        name = canonicalize_name(package.name)
        purl = f"pkg:pypi/{name}@{pins[0]}" if pins else f"pkg:pypi/{name}"
        if purl in seen:
            continue
        seen.add(purl)
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": package.name,
            **({"version": pins[0]} if pins else {}),
            "purl": purl,
            **({"properties": [*properties(marker=package.marker)]} if package.marker else {}),
        }


def licence(text: str | None) -> dict[str, Any]:
    """A licence by its SPDX identifier if that is one, else by its name."""
    if text is None:
        return {"license": {"name": UNKNOWN}}
    spdx = spdx_id(text)
    return {"license": {"id": spdx} if spdx else {"name": text}}


def spdx_id(text: str) -> str | None:
    """The SPDX identifier that `text` is, in its right case; None if it is none."""
    if len(text.split()) != 1:
        return None
    try:
        found = canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        return None
    return None if found.startswith("LicenseRef-") else str(found)


def sha256(digest: str) -> dict[str, str]:
    """A digest as CycloneDX has it."""
    return {"alg": "SHA-256", "content": digest}


def reference(source: Source) -> str:
    """What the bill calls a source."""
    return f"source/{source.name}"


def properties(**values: object) -> Iterable[dict[str, str]]:
    """`values` as properties under names of our own."""
    return ({"name": f"pedigree:{name}", "value": str(value)} for name, value in values.items())
