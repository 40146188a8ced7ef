"""Operations of a training, and how long they take."""

from collections.abc import Mapping

from plan.shape import ATTENTION, EMBEDDING, HEAD, INNER, MLP, Shape

SCORES = "attention scores"
PER_PARAMETER = 6  # a product and a sum, once forward and twice backward (Kaplan et al. 2020, section 2.1)
SECONDS_PER_DAY = 86_400

# Compute from which the EU has rules: "Guidelines on the scope of the obligations for providers of general-purpose
# AI models" (Commission, July 2025), and Article 51(2) of Regulation (EU) 2024/1689.
MARKS = {1e23: "the Commission's indication of a general-purpose model", 1e25: "presumed to have systemic risk"}


def six_nd(parameters: float, tokens: float) -> float:
    """FLOPs of a training by the rule of thumb 6·N·D (Brown et al. 2020, arXiv:2005.14165, appendix D)."""
    return PER_PARAMETER * parameters * tokens


def flops_by_part(shape: Shape, length: int, tokens: int) -> Mapping[str, float]:
    """FLOPs of the matrix products of a training on `tokens` tokens, in samples of `length`.

    The embedding is a look-up and costs none. Scores are those of all pairs of positions, as PaLM counts them
    (Chowdhery et al. 2022, arXiv:2204.02311, appendix B); a kernel that leaves out what is masked does half of them.
    """
    head = shape.parts[EMBEDDING] if shape.is_tied else shape.parts.get(HEAD, 0)
    matrices = {part: shape.parts[part] for part in (ATTENTION, MLP, INNER) if part in shape.parts} | {HEAD: head}
    flops = {part: six_nd(count, tokens) for part, count in matrices.items()}
    # Queries by keys and weights by values: 2 products of `length` by head width, for each head and position.
    flops[SCORES] = 2.0 * PER_PARAMETER * shape.layers * shape.attention_width * length * tokens
    return flops


def days(flops: float, peak: float, utilisation: float) -> float:
    """Days that machines of together `peak` FLOP/s need at this share of it (MFU, PaLM's appendix B)."""
    return flops / (peak * utilisation) / SECONDS_PER_DAY


def marks_passed(flops: float) -> dict[float, str]:
    """The marks that a training of `flops` is above."""
    return {mark: meaning for mark, meaning in MARKS.items() if flops > mark}
