"""The embedded miniature: a small data set, written by a grammar, that runs the course offline."""

from pathlib import Path


def miniature_folder() -> Path:
    """Folder that holds the shipped miniature.

    Returns:
        `<package>/_data/miniature` in an installed wheel, else `<repository>/data/miniature`.
    """
    package = Path(__file__).resolve().parent
    packaged = package / "_data" / "miniature"
    return packaged if packaged.is_dir() else package.parent / "data" / "miniature"
