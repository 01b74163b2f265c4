"""One family of errors, so that a program can catch what this package says on purpose.

The command line turns every :class:`MrlCourseError` and every ``OSError`` into one line.
"""

from __future__ import annotations


class MrlCourseError(Exception):
    """Something the package cannot work with; the message names it and says what to do."""


class DataSourceError(MrlCourseError, RuntimeError):
    """Sentences cannot be had; the message names the file, the column and the fix."""


class LessonError(MrlCourseError, ValueError):
    """A lesson cannot be found, read or run; the message says which, and what to do."""


class WrongKind(MrlCourseError, TypeError):
    """An argument of another kind than the one that is documented."""


class WrongValue(MrlCourseError, ValueError):
    """An argument of the right kind whose value cannot be used."""
