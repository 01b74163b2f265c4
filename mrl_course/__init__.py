"""Helpers for the Matryoshka embeddings course: data, loss, twins, curves.

Each module is named after one concept of the field; import what you need from there::

    from mrl_course.training import train_twins
    from mrl_course.evaluation import similarity_curve, retention

Importing ``mrl_course`` itself loads nothing heavy.
"""

DEFAULT_DIMS = (8, 16, 32, 64, 128, 256, 512, 768)
"""Prefix sizes trained and reported by default; 768 is the full size."""

__version__ = "0.1.0"
__all__ = ["DEFAULT_DIMS", "__version__"]
