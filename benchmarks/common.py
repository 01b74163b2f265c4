"""What the scripts of recorded runs share: the two tasks, the tokens, the cache, and the record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from mrl_course.comparison import source_kind
from mrl_course.data import load_allnli, load_retrieval, load_stsb
from mrl_course.evaluation import retrieval_curve, similarity_curve
from mrl_course.files import write_whole
from mrl_course.models import build_static_model, train_tokenizer
from mrl_course.results import circumstances, record_text
from mrl_course.training import TokenisedTriplets, read_triplets, tokenise_triplets

GRAMMAR = "the grammar of the miniature"


class Tasks:
    """STS-B test, and retrieval of unseen premises, read once."""

    def __init__(self):
        """Read both from ``MRL_COURSE_DATA``."""
        self.stsb, self.retrieval = load_stsb("test"), load_retrieval("test")

    def encode(self, model, batch_size: int = 1024) -> list:
        """Arrays of the texts of both tasks: two for STS-B, queries and corpus for retrieval."""
        texts = [self.stsb["sentence1"], self.stsb["sentence2"]]
        texts += [self.retrieval.queries, self.retrieval.corpus]
        return [model.encode(list(column), batch_size=batch_size) for column in texts]

    def scores(self, emb: list, dims: list[int]) -> list[list]:
        """Rows of task, k, score, from what :meth:`encode` gave."""
        curves = (
            similarity_curve(emb[0], emb[1], self.stsb["score"], dims),
            retrieval_curve(emb[2], emb[3], self.retrieval.relevant, dims),
        )
        return [[c.metric, k, round(score, 4)] for c in curves for k, score in c.items()]


def static_triplets(dim: int) -> tuple[object, TokenisedTriplets]:
    """The tokenizer of all training triplets, and the triplets as its tokens."""
    triplets = load_allnli("train")
    texts = list(dict.fromkeys(text for column in read_triplets(triplets) for text in column))
    tokenizer = train_tokenizer(texts)
    model = build_static_model([], dim, tokenizer=tokenizer)
    return tokenizer, tokenise_triplets(model, triplets)


def cached(file: Path, make: Callable[[], list]) -> list:
    """The rows that ``make`` gives, from the file if they were made before."""
    if not file.exists():
        write_whole(file, json.dumps(make()))
    return json.loads(file.read_text(encoding="utf-8"))


def write_record(
    out: Path,
    what: str,
    command: str,
    columns: Sequence[str],
    rows: list,
    *,
    source: str | None = None,
    packages: Sequence[str] = (),
    **more,
) -> None:
    """Write a record with its circumstances.

    Args:
        out: the file.
        what: was measured.
        command: that made it, without ``python``.
        columns, rows: the table.
        source: of the texts; by default the one that ``MRL_COURSE_DATA`` names.
        packages: whose versions matter; those of ``circumstances`` by default.
        **more: what else belongs to the record, in this order.
    """
    if source is None:
        source, command = source_kind(None), f"MRL_COURSE_DATA=FOLDER python {command}"
    else:
        command = f"python {command}"
    about = circumstances(what, command, packages) if packages else circumstances(what, command)
    record = about | {"source": source} | more | {"columns": list(columns), "rows": rows}
    write_whole(out, record_text(record))
    print("wrote", out)
