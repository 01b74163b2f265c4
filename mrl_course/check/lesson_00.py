"""Exercises of lesson 00: what a vector weighs, and what retention means."""

from mrl_course.check.engine import Wrong, register


def bytes_per_vector(dim: int) -> int:
    """Bytes that one float32 embedding of ``dim`` numbers takes: 4 for each number."""
    return 4 * dim


def share_kept(scores: dict[int, float], k: int) -> float:
    """The share of its own full-size score that a model keeps at ``k``.

    ``scores`` maps prefix sizes to scores and holds the full size D, its largest key.
    """
    return scores[k] / scores[max(scores)]


@register(
    lesson=0,
    answer=bytes_per_vector,
    expects="a function bytes_per_vector(dim) -> int",
    why="A million vectors of 768 numbers are 3.07 GB; of 64 numbers, 0.26 GB.",
    hints=[
        "A float32 number has 32 bits. How many bits are in a byte?",
        "32 bits are 4 bytes; an embedding has dim such numbers.",
    ],
    wrong_answers=[
        Wrong(lambda dim: 32 * dim, says="bits"),
        Wrong(lambda dim: 8 * dim, says="float64"),
        Wrong(lambda dim: 3072, says="depend on dim"),
        Wrong(lambda dim: dim, says="4 bytes"),
    ],
)
def size_of_a_vector(answer):
    """Check bytes for several sizes and name the usual mix-ups."""
    got = {dim: answer(dim) for dim in (64, 768)}
    if got == {dim: bytes_per_vector(dim) for dim in got}:
        return None
    if got == {dim: 32 * dim for dim in got}:
        return "that is the number of bits; a byte has 8 bits."
    if got == {dim: 8 * dim for dim in got}:
        return "8 bytes is the size of a float64; embeddings are stored as float32."
    if got[64] == got[768]:
        return f"you return {got[64]!r} for 64 and for 768 numbers; the size must depend on dim."
    return f"for 64 numbers you return {got[64]!r}; each number takes 4 bytes."


@register(
    lesson=0,
    answer=share_kept,
    expects="a function share_kept(scores, k) -> float",
    why="Retention compares a model with itself, so always look at the score too.",
    hints=[
        "Retention at k is the score at k divided by another score of the same model.",
        "The full size D is the largest key of scores.",
    ],
    wrong_answers=[
        Wrong(lambda scores, k: scores[k], says="the score itself"),
        Wrong(lambda scores, k: scores[k] / max(scores.values()), says="best score"),
        Wrong(lambda scores, k: scores[max(scores)] / scores[k], says="upside down"),
        Wrong(lambda scores, k: scores[k] / scores[768], says="KeyError"),
        Wrong(lambda scores, k: 100 * scores[k] / scores[max(scores)], says="percent"),
    ],
)
def retention_by_hand(answer):
    """Check on curves where the best score is not the one at full size."""
    for scores in ({8: 0.3, 64: 0.62, 256: 0.6}, {16: 0.2, 32: 0.4, 768: 0.8}):
        for k in scores:
            got, want = answer(dict(scores), k), share_kept(scores, k)
            if not isinstance(got, (int, float)):
                return f"return a number, not {type(got).__name__}."
            if abs(got - want) > 1e-9:
                return _explain(scores, k, got, want)
    return None


def _explain(scores: dict[int, float], k: int, got: float, want: float) -> str:
    full = max(scores)
    start = f"for scores {scores} and k = {k} you return {got:.4f}, expected {want:.4f}"
    if abs(got - scores[k]) < 1e-9:
        return f"{start}: that is the score itself, not its share of the full-size score."
    if abs(got - scores[k] / max(scores.values())) < 1e-9:
        return f"{start}: you divide by the best score; divide by the one at full size, k = {full}."
    if abs(got * scores[k] - scores[full]) < 1e-9:
        return f"{start}: the fraction is upside down."
    if abs(got - 100 * want) < 1e-6:
        return f"{start}: that is in percent; return a share, where 1 is all of it."
    return f"{start}."
