"""What the scripts of recorded runs share: the two tasks, and how a record is written."""

from __future__ import annotations

import os
from pathlib import Path

from mrl_course.data import load_retrieval, load_stsb
from mrl_course.evaluation import retrieval_curve, similarity_curve
from mrl_course.results import circumstances, record_text
from mrl_course.twins import source_kind


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


def write_record(out: Path, what: str, command: str, columns: list[str], rows: list) -> None:
    """Write a record with its circumstances, whole or not at all."""
    record = circumstances(what, f"MRL_COURSE_DATA=FOLDER python {command}")
    record |= {"source": source_kind(None), "columns": columns, "rows": rows}
    part = out.with_suffix(".part")
    part.write_text(record_text(record), encoding="utf-8")
    os.replace(part, out)
