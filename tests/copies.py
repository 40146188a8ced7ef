"""Made-up documents and copies of them, and the project that extract, fingerprint and filter make of them."""

import random
from pathlib import Path

import polars as pl
import yaml

from stages.documents import DECISION_SCHEMA, DOCUMENT_SCHEMA, document_id, shard_name, write_manifest, write_shard
from stages.fingerprint import fingerprint_shard
from stages.minhash import FingerprintParams

# Without digits, which are all the same in a shingle.
LETTERS = "bcdfghжklmnpqrst"
VOCABULARY = ["".join(LETTERS[int(digit, 16)] for digit in f"{number:03x}") for number in range(3000)]
SHORTEST = 4  # characters of a document that filter keeps


def prose(seed, count=200):
    """So many words, like no other seed's."""
    return " ".join(random.Random(seed).choices(VOCABULARY, k=count))


def edited(text, share, seed=0):
    """`text` with about this share of its words replaced."""
    generator = random.Random(seed)
    return " ".join(generator.choice(VOCABULARY) if generator.random() < share else word for word in text.split())


def jaccard(one, other, ngram=5):
    """By the book: equal 5-grams of words over all of them."""
    words = one.split(), other.split()
    sets = [{tuple(each[i : i + ngram]) for i in range(len(each) - ngram + 1)} for each in words]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def lay(folder: Path, sources, dedup=None, fingerprint=None):
    """A project in `folder` with these texts of each source, by shard, of which filter kept all but the short ones."""
    params = {"sources": {name: {} for name in sources}, "fingerprint": fingerprint or {}, "dedup": dedup or {}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    made = FingerprintParams.model_validate(params["fingerprint"])
    for name, shards in sources.items():
        kept = sum(len(text) >= SHORTEST for texts in shards for text in texts)
        for stage in ("extract", "fingerprint", "filter"):
            (folder / "data" / stage / name).mkdir(parents=True)
        for number, texts in enumerate(shards):
            lay_shard(folder, name, number, texts, made)
        for stage in ("extract", "fingerprint", "filter"):
            write_manifest(folder / "data" / stage / name, {"kept": kept})


def lay_shard(folder, source, number, texts, made=None):
    """One shard of documents, with fingerprints and decisions."""
    origins = [f"{number}/{index}" for index in range(len(texts))]
    ids = [document_id(source, origin) for origin in origins]
    table = pl.DataFrame(
        {"id": ids, "text": texts, "origin": origins}, dict.fromkeys(("id", "text", "origin"), pl.String)
    )
    keep = table["text"].str.len_chars() >= SHORTEST
    decisions = table.select("id", "origin").with_columns(
        keep=keep,
        rule=pl.when(~keep).then(pl.lit("short")),
        value=pl.when(~keep).then(3.0),
        synthetic=pl.lit(source == "written"),
    )
    documents = folder / "data/extract" / source / shard_name("documents", number)
    write_shard(documents, completed(table, DOCUMENT_SCHEMA))
    write_shard(
        folder / "data/filter" / source / shard_name("decisions", number), completed(decisions, DECISION_SCHEMA)
    )
    made = made or FingerprintParams()
    spans = made.spans is not None and made.spans.of(source)
    fingerprint_shard((number, documents), folder / "data/fingerprint" / source, made, spans)


def completed(table, schema):
    """`table` with the columns and types of `schema`; what is absent is null."""
    absent = [pl.lit(None).alias(name) for name in schema if name not in table.columns]
    return table.with_columns(absent).select(pl.col(name).cast(dtype) for name, dtype in schema.items())
