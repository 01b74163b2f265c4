"""The embedded miniature: a small data set, written by a grammar, that runs the course offline.

``python -m mrl_course.miniature`` rebuilds it, ``--check`` proves that the shipped tables are the
ones that the lexicon and this code give.
"""

from mrl_course.files import miniature_folder
from mrl_course.miniature.build import load_grammar, load_scenes, premises

__all__ = ["load_grammar", "load_scenes", "miniature_folder", "premises"]
