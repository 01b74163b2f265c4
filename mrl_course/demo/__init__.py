"""The interactive page: any query, any prefix size, both twins side by side, in one HTML file.

:func:`build_demo` embeds a corpus with both twins and writes a page that needs no server and no
network. The page holds the two embedding tables and the corpus vectors as whole numbers from -127
to 127 (int8), one scale per row; the order of the numbers is kept, so a prefix of a stored row is
the prefix of the vector. A query is turned into tokens and into a vector in the browser.

The rules of the tokenizer are not written down a second time: the builder asks the tokenizer what
it does with every character of Unicode (:func:`character_rules`) and the page looks it up.
"""

from mrl_course.demo.corpora import (
    Demo,
    Making,
    docstring_demo,
    miniature_demo,
    own_demo,
    rotated_twins,
)
from mrl_course.demo.int8 import (
    break_point,
    mean_of_rows,
    overlap_curve,
    prefix_scores,
    quantise_rows,
    rank_rows,
    rerank_rows,
)
from mrl_course.demo.page import (
    DEFAULT_DIM,
    DEFAULT_TEXTS,
    DEFAULT_VOCAB,
    MAX_BYTES,
    DemoCorpus,
    build_demo,
    show_page,
)
from mrl_course.demo.tables import read_corpus
from mrl_course.demo.tokenizer import character_rules

__all__ = [
    "DEFAULT_DIM",
    "DEFAULT_TEXTS",
    "DEFAULT_VOCAB",
    "MAX_BYTES",
    "Demo",
    "DemoCorpus",
    "Making",
    "break_point",
    "build_demo",
    "character_rules",
    "docstring_demo",
    "mean_of_rows",
    "miniature_demo",
    "overlap_curve",
    "own_demo",
    "prefix_scores",
    "quantise_rows",
    "rank_rows",
    "read_corpus",
    "rerank_rows",
    "rotated_twins",
    "show_page",
]
