"""The rule sets of filter, with their published thresholds."""

from pydantic import Field

from stages.ngrams import LEAST_WORDS, WORDS
from stages.params import StageParams
from stages.pinned import PinnedFile

# In the rule sets below, `min_X` and `max_X` bound the signal X, and null switches the rule off.
Count = int | None
Ratio = float | None


class LanguageRules(StageParams):
    """Languages to keep, by ISO 639 code, and how sure the classifier must be (FineWeb, section 3.3)."""

    allowed: tuple[str, ...] = Field(min_length=1, description="ISO 639 codes; for code, programming languages")
    min_score: Ratio = Field(0.65, ge=0, le=1, description="how sure the classifier must be")


class UrlRules(StageParams):
    """What the URL of a document may not be: lists of a line for each entry, `#` before a comment.

    A document without a URL breaks none of them.
    """

    domains: PinnedFile | None = Field(None, description="hosts, with all below them: example.org, ads.example.com")
    prefixes: PinnedFile | None = Field(None, description="how URLs begin, the scheme aside: example.org/forum/")
    words: PinnedFile | None = Field(None, description="words of a URL: runs of letters and digits, in any case")


class LicenseRules(StageParams):
    """Licences to keep, as the documents name them. One without a licence is dropped."""

    allowed: tuple[str, ...] = Field(min_length=1, description="licences, letter by letter: CC-BY-4.0")


class GopherRepetitionRules(StageParams):
    """How much of a document may repeat another part of it (Rae et al. 2021, table A1)."""

    max_duplicate_paragraph_ratio: Ratio = Field(0.30, ge=0, le=1)
    max_duplicate_paragraph_character_ratio: Ratio = Field(0.20, ge=0, le=1)
    max_duplicate_line_ratio: Ratio = Field(0.30, ge=0, le=1)
    max_duplicate_line_character_ratio: Ratio = Field(0.20, ge=0, le=1)
    max_top_2_gram_character_ratio: Ratio = Field(0.20, ge=0, le=1)
    max_top_3_gram_character_ratio: Ratio = Field(0.18, ge=0, le=1)
    max_top_4_gram_character_ratio: Ratio = Field(0.16, ge=0, le=1)
    max_duplicate_5_gram_character_ratio: Ratio = Field(0.15, ge=0, le=1)
    max_duplicate_6_gram_character_ratio: Ratio = Field(0.14, ge=0, le=1)
    max_duplicate_7_gram_character_ratio: Ratio = Field(0.13, ge=0, le=1)
    max_duplicate_8_gram_character_ratio: Ratio = Field(0.12, ge=0, le=1)
    max_duplicate_9_gram_character_ratio: Ratio = Field(0.11, ge=0, le=1)
    max_duplicate_10_gram_character_ratio: Ratio = Field(0.10, ge=0, le=1)


class GopherQualityRules(StageParams):
    """What prose looks like (Rae et al. 2021, A1.1). Word lengths are in characters."""

    min_words: Count = Field(50, ge=0)
    max_words: Count = Field(100_000, ge=0)
    min_mean_word_length: Ratio = Field(3.0, ge=0)
    max_mean_word_length: Ratio = Field(10.0, ge=0)
    max_hash_to_word_ratio: Ratio = Field(0.1, ge=0)
    max_ellipsis_to_word_ratio: Ratio = Field(0.1, ge=0)
    max_bullet_line_ratio: Ratio = Field(0.9, ge=0, le=1)
    max_ellipsis_line_ratio: Ratio = Field(0.3, ge=0, le=1)
    min_alphabetic_word_ratio: Ratio = Field(0.8, ge=0, le=1)
    min_alphabetic_token_ratio: Ratio = Field(None, ge=0, le=1)
    min_stop_words: Count = Field(2, ge=0, le=8)


class C4Rules(StageParams):
    """C4's rules for whole documents (Raffel et al. 2020, section 2.2); those for lines are extract's."""

    min_sentences: Count = Field(5, ge=0)
    max_lorem_ipsum: Count = Field(0, ge=0)
    max_curly_brackets: Count = Field(0, ge=0)


class FineWebRules(StageParams):
    """FineWeb's own rules (Penedo et al. 2024, section 3.6)."""

    min_line_punct_ratio: Ratio = Field(0.12, ge=0, le=1)
    max_short_line_ratio: Ratio = Field(0.67, ge=0, le=1)
    max_char_dup_ratio: Ratio = Field(0.01, ge=0, le=1)
    max_list_ratio: Ratio = Field(0.3, ge=0)


class CodeRules(StageParams):
    """What code is not: minified, data, generated (The Stack, StarCoder, StarCoder2).

    Line lengths are in characters.
    """

    min_words: Count = Field(None, ge=0)
    max_lines: Count = Field(100_000, ge=0)
    max_max_line_length: Count = Field(1000, ge=0)
    max_mean_line_length: Ratio = Field(100.0, ge=0)
    min_alphanumeric_ratio: Ratio = Field(0.25, ge=0, le=1)
    min_alphabetic_ratio: Ratio = Field(0.25, ge=0, le=1)
    max_encoded_ratio: Ratio = Field(0.5, ge=0, le=1)
    max_encoded_run: Count = Field(1024, ge=0)
    max_xml_marks: Count = Field(0, ge=0)
    max_generated_marks: Count = Field(0, ge=0)


class DataFileRules(StageParams):
    """Which files in the languages of data are more than data (Li et al. 2023, section 3.2)."""

    languages: tuple[str, ...] = Field(("json", "yaml"), min_length=1, description="asked of documents in these alone")
    min_characters: Count = Field(50, ge=0)
    max_characters: Count = Field(5000, ge=0)
    min_alphabetic_ratio: Ratio = Field(0.5, ge=0, le=1)


class HtmlFileRules(StageParams):
    """Which files of HTML, in a source of code, show something (Li et al. 2023, section 3.2)."""

    languages: tuple[str, ...] = Field(("html",), min_length=1, description="asked of documents in these alone")
    min_visible_characters: Count = Field(100, ge=0)
    min_visible_ratio: Ratio = Field(0.2, ge=0, le=1)


class QualityRules(StageParams):
    """What the classifier of `extract.quality` must say."""

    min_score: Ratio = Field(ge=0, le=1, description="least `quality_score`: how sure it is of its label")


class DecontaminationRules(StageParams):
    """No document may hold an item of an evaluation set (Brown et al. 2020, appendix C). Asked last, and of texts.

    These are all that `evaluate.tasks` and `evaluate.probe` name.
    """

    words: int = Field(
        WORDS, ge=LEAST_WORDS, le=64, description="in a row that an item shares; a shorter one is looked for whole"
    )


class FilterParams(StageParams):
    """The rule sets of a source, asked in this order. An absent one is off; `{}` takes the published thresholds."""

    language: LanguageRules | None = None
    url: UrlRules | None = None
    license: LicenseRules | None = None
    gopher_repetition: GopherRepetitionRules | None = None
    gopher_quality: GopherQualityRules | None = None
    c4: C4Rules | None = None
    fineweb: FineWebRules | None = None
    code: CodeRules | None = None
    data_files: DataFileRules | None = None
    html_files: HtmlFileRules | None = None
    quality: QualityRules | None = None
    decontamination: DecontaminationRules | None = None
