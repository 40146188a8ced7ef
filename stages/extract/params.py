"""The parameters of extract: what changes the text of a document, and nothing that only drops it."""

from typing import Literal

from pydantic import Field

from stages.params import StageParams
from stages.pinned import PinnedFile

Format = Literal[
    "auto", "jsonl", "parquet", "csv", "text", "markdown", "rst", "html", "warc", "wet", "mediawiki", "jats", "code"
]

WordDefinition = Literal["regex-v1", "spacy"]


class LineRules(StageParams):
    """Lines to take out, after C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2). All are off by default."""

    drop_javascript: bool = Field(False, description="lines that name Javascript: warnings to turn it on")
    drop_policy: bool = Field(False, description="lines about privacy policies, cookies and terms of use")
    max_word_characters: int | None = Field(None, ge=1, description="drop lines with a longer word; C4 has 1000")
    min_words: int | None = Field(None, ge=1, description="drop lines with fewer words; C4 has 3")
    require_terminal_punctuation: bool = Field(False, description="drop lines that don't end in . ! ? or \"")


class MaskRules(StageParams):
    """What is replaced by placeholders: docs/rules.md. All are off by default."""

    email: bool = Field(False, description="e-mail addresses")
    ip: bool = Field(False, description="public IP addresses, of versions 4 and 6")
    phone: bool = Field(False, description="phone numbers with a country's code, or as in North America")
    iban: bool = Field(False, description="bank accounts whose check digits hold")
    card: bool = Field(False, description="payment cards whose check digit holds")
    secrets: bool = Field(False, description="private keys, tokens of services, passwords in URLs and in code")


class QualityClassifier(PinnedFile):
    """A fastText model that tells good text from other text."""

    label: str = Field(min_length=1, description="whose probability is `quality_score`, without `__label__`")


class ExtractParams(StageParams):
    """How the files of a source are read and cleaned."""

    format: Format = Field("auto", description="auto: by the ending of each file's name")
    members: tuple[str, ...] = Field((), description="globs of files, also in archives; `!` before one excludes")
    license: str | None = Field(None, description="licence of a document that doesn't name its own")
    shard_bytes: int = Field(64 << 20, ge=1, description="input bytes that are grouped into one shard")
    max_document_bytes: int = Field(10_000_000, ge=1, description="a longer record, or text, is dropped")
    text_column: str = Field("text", description="of jsonl, parquet and csv, as are those that follow")
    id_column: str | None = Field(None, description="kept in meta; a document's own id doesn't depend on it")
    url_column: str | None = Field(None, description="kept in meta")
    date_column: str | None = Field(None, description="of the document, ISO 8601")
    license_column: str | None = Field(None, description="goes before `license`")
    language_column: str | None = Field(None, description="instead of detecting the language")
    verbatim: bool = Field(False, description="keep spaces and code points as they are; format code always does")
    words: WordDefinition = Field("regex-v1", description="what signals count as a word; spacy: as datatrove does")
    honour_opt_out: bool = Field(
        True, description="leave out pages of WARC whose publishers opt out (noai, noindex, TDM reservation)"
    )
    lines: LineRules = LineRules()
    mask: MaskRules = MaskRules()
    quality: QualityClassifier | None = Field(None, description="what measures `quality_score`; null: nothing does")

    def columns(self) -> set[str]:
        """The columns of jsonl, parquet and csv that are read."""
        optional = (self.id_column, self.url_column, self.date_column, self.license_column, self.language_column)
        return {self.text_column, *(column for column in optional if column)}
