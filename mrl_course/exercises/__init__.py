"""The exercises of the lessons, one module for each lesson; ``mrl_course.check`` finds them here.

The answer key of an exercise is a tested function of the package wherever there is one.
"""

from mrl_course.exercises import (  # noqa: F401  importing registers them
    lesson_00,
    lesson_01,
    lesson_02,
    lesson_03,
    lesson_04,
    lesson_05,
    lesson_06,
    lesson_07,
    lesson_08,
    lesson_09,
    lesson_10,
    lesson_11,
    lesson_12,
)
