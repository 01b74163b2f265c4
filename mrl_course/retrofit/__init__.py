"""Make anyone's vectors Matryoshka: rotate and distil. No labels, no texts, seconds on a CPU.

A rotation changes no cosine between full vectors, but it decides what stands in the first numbers.
So, given embeddings of any model or provider, look for the rotation with the best prefixes. It
starts as PCA, which moves the variance to the front. Then the first principal directions are turned
among themselves: in random batches, the similarity softmax of every prefix is pulled to the one of
the full vectors. They are the teacher, so nothing has to be known about the texts, and at full size
nothing can be lost. Held-out rows decide how many directions may be turned, and whether any.

The result is a :class:`Head`: apply it to arrays, files and streams, ask it what it is good for,
save it, export it, or put it behind a ``SentenceTransformer`` as its last module. Related:
Matryoshka-Adaptor (Yoon et al., 2024, https://aclanthology.org/2024.emnlp-main.576/) tunes a small
network for the same purpose.
"""

from mrl_course.retrofit.fit import fit_head
from mrl_course.retrofit.head import Head
from mrl_course.retrofit.judging import Report
from mrl_course.retrofit.recipe import cayley
from mrl_course.retrofit.suggesting import Suggestion

__all__ = ["Head", "Report", "Suggestion", "cayley", "fit_head"]
