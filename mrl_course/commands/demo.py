"""The command ``mrl-course demo``: write the interactive page."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path
from typing import Any

from mrl_course.commands.shared import at_least, positive, seed
from mrl_course.demo.corpora import (
    docstring_demo,
    miniature_demo,
    own_demo,
)
from mrl_course.demo.page import DEFAULT_DIM, DEFAULT_TEXTS, DEFAULT_VOCAB, build_demo
from mrl_course.files import check_writable_file, user_path


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command ``demo`` to a parser made with ``add_subparsers``."""
    parser = subparsers.add_parser(
        "demo",
        help="write the interactive page: any query, any k, both twins side by side",
        description="Train the twins on a corpus, or take trained ones, and write one HTML file "
        "that searches it at any prefix size. It opens from disk and sends no request.",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("build/demo.html"))
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--corpus",
        metavar="WHAT",
        default="docstrings",
        help="docstrings (of installed libraries), mini, a .txt with one text per line, or a .csv "
        "with columns `text` and perhaps `name` and `query` (default: %(default)s)",
    )
    parser.add_argument(
        "--models",
        metavar="DIR",
        type=Path,
        help="take the models in DIR/regular and DIR/matryoshka instead of training; "
        "`mrl-course twins --save-models` makes such folders",
    )
    parser.add_argument(
        "--rotate",
        action="store_true",
        help="compare the regular twin with itself after rotate and distil, which needs no labels",
    )
    for name, kind, default, text in (
        ("--limit", positive, DEFAULT_TEXTS, "at most N texts"),
        ("--dim", positive, DEFAULT_DIM, "D of the twins"),
        ("--vocab", at_least(100), DEFAULT_VOCAB, "at most N tokens"),
    ):
        parser.add_argument(
            name, metavar="N", type=kind, default=default, help=f"{text} (default: {default})"
        )
    parser.add_argument("--seed", metavar="N", type=seed, default=0, help="(default: 0)")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit code is 0."""
    out = check_writable_file(args.out)  # before the training, not after it
    how: dict[str, Any] = {"dim": args.dim, "vocab_size": args.vocab, "seed": args.seed}
    how["rotate"] = args.rotate
    how["say"] = lambda line: print(line, flush=True)
    how["twins"] = _load_twins(user_path(args.models), args.rotate) if args.models else None
    if args.corpus == "docstrings":
        twins, corpus = docstring_demo(args.limit, **how)
    elif args.corpus == "mini":
        twins, corpus = miniature_demo(args.limit, **how)
    else:
        twins, corpus = own_demo(args.corpus, args.limit, **how)
    path = build_demo(twins, corpus, out)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB, {len(corpus.texts):,} texts)")
    if args.open and not webbrowser.open(path.resolve().as_uri()):
        print("no browser found; open the file by hand")
    return 0


def _load_twins(folder: Path, regular_only: bool) -> Any:
    """The models of a folder; with ``--rotate`` the regular one is enough."""
    names = ("regular",) if regular_only else ("regular", "matryoshka")
    for name in names:
        if not (folder / name).is_dir():
            raise OSError(
                f"there is no folder {folder / name}; `mrl-course twins --save-models` makes it"
            )
    from sentence_transformers import SentenceTransformer

    from mrl_course.training import Twins

    models = [SentenceTransformer(str(folder / name), device="cpu") for name in names]
    return models[0] if regular_only else Twins(models[0], models[1])
