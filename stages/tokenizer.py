"""Train the tokenizer: byte-level byte-pair encoding on a sample of the training text.

    kept documents of all sources  ->  a Hugging Face tokenizer

Byte-pair encoding after Sennrich et al. 2016 (arXiv:1508.07909), on bytes as in GPT-2 (Radford et al.
2019, section 2.2). The sample takes whole documents of each source, in the order of a hash of their ids,
until the source's share of it is full: that of the mixture. An existing tokenizer can be named instead of trained.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl
from pydantic import Field, model_validator
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from stages.documents import fresh_folder, kept_documents, publish, source_folders, write_json, write_manifest
from stages.mixture import Mixture, in_epochs, load_mixture, shares
from stages.params import Refusal, StageParams, load_params
from stages.process import log, run

BYTES = 256


class ExistingTokenizer(StageParams):
    """A tokenizer that isn't trained here: a local folder or a Hugging Face repository, pinned."""

    name: str = Field(description="a local folder, or a repository of the Hugging Face hub")
    revision: str | None = Field(None, description="commit or tag of the repository")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of its tokenizer.json")


class TokenizerParams(StageParams):
    """Vocabulary to train, or the existing tokenizer to take."""

    vocabulary: int | None = Field(None, ge=BYTES + 1, description="tokens, the separator included")
    sample_bytes: int = Field(8_000_000, ge=1, description="UTF-8 bytes of text to train on, over all sources")
    seed: int = Field(0, description="of the choice of documents to train on")
    separator: str = Field("<|endoftext|>", min_length=1, description="the token that ends each document")
    mask_token: str | None = Field(None, min_length=1, description="what hides a token; for the masked objective")
    existing: ExistingTokenizer | None = None

    @property
    def special(self) -> list[str]:
        """The tokens that no text can spell."""
        return [self.separator] + ([self.mask_token] if self.mask_token else [])

    @model_validator(mode="after")
    def _one_of_two(self) -> "TokenizerParams":
        if (self.vocabulary is None) == (self.existing is None):
            raise ValueError("give either vocabulary (to train) or existing (to take), not both or neither")
        return self


def choose(ids: pl.Series, sizes: pl.Series, budget: int, seed: int) -> pl.Series:
    """Which documents (True) make up the sample of a source.

    The documents are taken in the order of a hash of `ids` and `seed` until `sizes` (bytes) reach `budget`.
    """
    keys = [hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest() for name in ids]
    ranked = pl.DataFrame({"key": keys, "bytes": sizes}).with_row_index().sort("key")
    before = ranked["bytes"].cum_sum() - ranked["bytes"]
    return ranked.with_columns(chosen=before < budget).sort("index")["chosen"]


def sample_texts(documents: Path, decisions: Path, budget: int, seed: int) -> Iterator[str]:
    """The texts of one source's share of the sample, in the order of the corpus."""
    shards = list(kept_documents(documents, decisions, ["id", "text"], "train"))
    ids = pl.concat([shard["id"] for shard in shards])
    sizes = pl.concat([shard["text"].str.len_bytes() for shard in shards]).cast(pl.Int64)
    chosen = choose(ids, sizes, budget, seed)
    yield from pl.concat([shard["text"] for shard in shards]).filter(chosen)


def sample_shares(mixture: Mixture, bytes_of: Callable[[str], int]) -> dict[str, float]:
    """The share of each source in the sample, for sources that have so many `bytes_of` training text.

    A source in epochs has its bytes so many times; those with weights divide the bytes that they have together, as if
    all of them were seen once. So the tokenizer doesn't depend on the budget: else each would have other tokens.
    """
    repeated = in_epochs(mixture)
    if not repeated:
        return shares(mixture, {}, 1, "the sample")
    sizes = {name: bytes_of(name) for name in mixture}
    total = sum(size * repeated.get(name, 1) for name, size in sizes.items())
    return shares(mixture, sizes, total, "the sample")


def text_bytes(documents: Path, decisions: Path) -> int:
    """UTF-8 bytes of the training text of one source."""
    shards = kept_documents(documents, decisions, ["text"], "train")
    return sum(int(shard["text"].str.len_bytes().cast(pl.Int64).sum()) for shard in shards)


def train(texts: Iterator[str], vocabulary: int, special: Sequence[str]) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `vocabulary` tokens; any text can be encoded and comes back exactly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True) for token in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_existing(existing: ExistingTokenizer) -> Tokenizer:
    """The tokenizer that params name.

    Raises:
        Refusal: if it can't be had, or isn't the one that is pinned.
    """
    path = Path(existing.name) / "tokenizer.json"
    try:
        if not path.is_file():
            from huggingface_hub import hf_hub_download  # only here: a local folder needs no network

            path = Path(hf_hub_download(existing.name, "tokenizer.json", revision=existing.revision))
        content = path.read_bytes()
    except Exception as error:  # the hub's client raises a dozen kinds
        raise Refusal(
            f"params.yaml: tokenizer.existing.name is {existing.name!r}, but no tokenizer.json could be had there "
            f"({type(error).__name__}); name a folder that holds one, or a repository that can be reached"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != existing.sha256:
        raise Refusal(
            f"{existing.name}: tokenizer.json has sha256 {digest}, but tokenizer.existing.sha256 in params.yaml "
            f"is {existing.sha256}; pin the one that you mean"
        )
    return Tokenizer.from_str(content.decode())


def save(tokenizer: Tokenizer, folder: Path, params: TokenizerParams) -> None:
    """Write `tokenizer` in Hugging Face's format; the separator is what begins and ends a document.

    Raises:
        Refusal: if a special token of `params` isn't one of its tokens.
    """
    for token in params.special:
        if tokenizer.token_to_id(token) is None:
            raise Refusal(f"params.yaml: tokenizer names the special token {token!r}, which the tokenizer doesn't have")
    partial = folder / ".tokenizer.json.partial"
    partial.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    publish(partial, folder / "tokenizer.json")
    special = {"bos_token": params.separator, "eos_token": params.separator}
    if params.mask_token:
        special["mask_token"] = params.mask_token
    write_json(
        folder / "tokenizer_config.json",
        {**special, "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False},
    )
    write_json(folder / "special_tokens_map.json", special)


def main() -> None:
    """Train, or take, the tokenizer of params.yaml."""
    params = load_params(TokenizerParams, "tokenizer")
    mixture = load_mixture()
    documents, decisions = source_folders(Path("data/extract")), source_folders(Path("data/dedup"))
    folder = fresh_folder(Path("models/tokenizer"))
    if params.existing:
        tokenizer = load_existing(params.existing)
    else:
        parts = sample_shares(mixture, lambda name: text_bytes(documents[name], decisions[name]))
        texts = (
            text
            for name, share in parts.items()
            for text in sample_texts(documents[name], decisions[name], round(share * params.sample_bytes), params.seed)
        )
        tokenizer = train(texts, params.vocabulary or 0, params.special)
    save(tokenizer, folder, params)
    write_manifest(folder, {"vocabulary": tokenizer.get_vocab_size()})
    log.info("tokenizer: %d tokens, in %s", tokenizer.get_vocab_size(), folder)


if __name__ == "__main__":
    run(main)
