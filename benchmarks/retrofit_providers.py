"""Rotate and distil on the vectors of eight models that others made: which constants, how good?

    MRL_COURSE_DATA=FOLDER python benchmarks/retrofit_providers.py [--seeds 0,1,2] [--old FILE]

FOLDER/providers holds (n, D) arrays, one a model. Half of the files, every second one by number of
rows, are for choosing the constants of ``fit_head`` (part ``choose``: the recipe with one thing
changed); the others report (part ``report``). Part ``rows`` fits on fewer rows and judges on the
whole store, part ``old`` is the recipe before: FILE is ``mrl_course/retrofit.py`` as it was in
commit c4cbf44. All parts but ``report`` are of the first seed only. A fifth of the distinct rows,
at most 500, search the others and are seen by no fit. Finished fits are kept under
``build/retrofit_providers``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import cached, write_record

from mrl_course.evaluation import TEMPERS, tempered_scales
from mrl_course.files import results_folder
from mrl_course.ranking import unit_rows
from mrl_course.retrofit import fit_head
from mrl_course.retrofit.judging import Field, mean_interval
from mrl_course.retrofit.rows import Moments, principal_axes

COLUMNS = ["part", "set", "dim", "rows", "seed", "method", "turned", "k", "overlap", "gain"]
COLUMNS += ["low", "high", "seconds"]
CACHE = Path("build/retrofit_providers")
DIMS = [8, 16, 32, 64, 128, 256]
VARIANTS = {
    "perplexity 6": {"perplexity": 6.0},
    "perplexity 25": {"perplexity": 25.0},
    "batches of 192": {"batch_size": 192},
    "equal weights": {"weights": [1] * 6},
    "weights k": {"weights": DIMS},
}
NOTE = (
    "The report files are no clean test: the choice of shares of the way and the PCA of all rows "
    "in the end were added after a look at their results, and Titan was among the first trials. "
    "The batch size, the steps and the exponent of the weights come from trials on ada-002, "
    "bge-base and 3-small that are not in this table. Seconds were taken on a machine shared with "
    "others."
)
SUBSAMPLES = (100, 200, 500, 2_000, 10_000)


def distinct(file: Path) -> np.ndarray:
    """The different unit rows of a file, in its order."""
    emb = unit_rows(np.load(file))
    _, first = np.unique(emb, axis=0, return_index=True)
    return emb[np.sort(first)]


def spectrum(emb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal axes and their variances."""
    return principal_axes(Moments(emb.shape[1]).add(emb), emb)


class Store:
    """One file: the rows that search, and the rows that are searched and may be fitted."""

    def __init__(self, file: Path, seed: int):
        """Split at random."""
        emb = distinct(file)
        order = np.random.default_rng(seed).permutation(len(emb))
        held = min(500, len(emb) // 5)
        self.name, self.seed, self.dim = file.stem, seed, emb.shape[1]
        self.asked, self.rest = emb[order[:held]], emb[order[held:]]
        self.dims = [k for k in DIMS if k < self.dim]
        self.ground = Field(torch.from_numpy(self.asked), torch.from_numpy(self.rest))

    def rows(self, part: str, methods: dict, fitted: int) -> list[list]:
        """Rows of the record; ``methods`` holds (map, turned, seconds) by name, PCA among them."""
        shares = {m: self.ground.shares(change, self.dims) for m, (change, *_) in methods.items()}
        rows = []
        for method, (_, turned, seconds) in methods.items():
            for i, k in enumerate(self.dims):
                gain = mean_interval(shares[method][i] - shares["pca"][i])
                numbers = [round(x, 4) for x in (float(shares[method][i].mean()), *gain)]
                about = [part, self.name, self.dim, fitted, self.seed, method, turned, k]
                rows.append([*about, *numbers, seconds])
        return rows

    def baselines(self, emb: np.ndarray) -> dict:
        """Raw, PCA and tempered PCA of these rows, the exponent by a tenth of them."""
        self.pca, variances = spectrum(emb)
        held = max(20, min(200, len(emb) // 10))
        asked, among = emb[:held], emb[held:]
        axes, spread = spectrum(among) if len(emb) > 40 else (self.pca, variances)
        ground = Field(torch.from_numpy(asked), torch.from_numpy(among[:4_000]))
        kept = [
            ground.shares(axes * tempered_scales(spread, power), self.dims).mean(axis=1)
            for power in TEMPERS
        ]
        powers = np.array(TEMPERS)[np.argmax(kept, axis=0)]
        tempered = {
            k: (self.pca * tempered_scales(variances, power))[:, :k]
            for k, power in zip(self.dims, powers, strict=True)
        }
        same = self.pca, 0, None
        return {"raw": (None, None, None), "pca": same, "tempered": (tempered, None, None)}

    def fitted(self, emb: np.ndarray, fit=fit_head, **settings):
        """What a fit gives, as :meth:`rows` wants it; 20 rows are left for its own report."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head = fit(
                emb, [*self.dims, self.dim], seed=self.seed, held_out=20, progress=False, **settings
            )
        turned = -1 if getattr(head, "method", "") == "raw" else getattr(head, "turned", None)
        return head.weight, turned, round(head.seconds, 1)


def choose(file: Path, seed: int) -> list[list]:
    """The recipe, and one change at a time, of as many directions as the recipe chose."""
    store = Store(file, seed)
    methods = store.baselines(store.rest) | {"new head": store.fitted(store.rest)}
    turned = methods["new head"][1]
    for name, settings in VARIANTS.items() if turned and turned > 0 else ():
        if "weights" in settings:
            settings = {"weights": [*settings["weights"][: len(store.dims)], 1]}
        methods[name] = store.fitted(store.rest, turned=turned, **settings)
    return store.rows("choose", methods, len(store.rest))


def report(file: Path, seed: int) -> list[list]:
    """All methods on files that chose nothing."""
    store = Store(file, seed)
    methods = store.baselines(store.rest) | {"new head": store.fitted(store.rest)}
    return store.rows("report", methods, len(store.rest))


def before(file: Path, seed: int, fit) -> list[list]:
    """The recipe before, on the same files."""
    store = Store(file, seed)
    methods = {"pca": (spectrum(store.rest)[0], 0, None)}
    methods["old head"] = store.fitted(store.rest, fit)
    rows = store.rows("report", methods, len(store.rest))
    return [row for row in rows if row[5] == "old head"]


def fewer(file: Path, seed: int, count: int) -> list[list]:
    """Fitted on some rows, judged on the whole store."""
    store = Store(file, seed)
    some = store.rest[:count]
    methods = store.baselines(some) | {"new head": store.fitted(some)}
    return store.rows("rows", methods, len(some))


def main() -> None:
    """Fit and judge everything, and record it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--parts", default="report,old,rows,choose")
    parser.add_argument("--finished", action="store_true", help="record what is finished")
    parser.add_argument("--old", type=Path, help="the former mrl_course/retrofit.py")
    parser.add_argument("--out", type=Path, default=results_folder() / "retrofit_providers.json")
    args = parser.parse_args()
    old = None
    if args.old:
        spec = importlib.util.spec_from_file_location("old_retrofit", args.old)
        module = sys.modules["old_retrofit"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        old = module.fit_head
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(os.environ["MRL_COURSE_DATA"]) / "providers"
    files = sorted(
        folder.glob("*.npy"), key=lambda file: (-len(np.load(file, mmap_mode="r")), file)
    )
    jobs = []
    for i, seed in enumerate(map(int, args.seeds.split(","))):
        jobs += [("report", file, seed, report) for file in files[1::2]]
        if i == 0 and old is not None:
            jobs += [("old", file, seed, partial(before, fit=old)) for file in files[1::2]]
        for file in files[:2] if i == 0 else ():
            sizes = [n for n in SUBSAMPLES if n < 0.8 * len(np.load(file, mmap_mode="r"))]
            jobs += [(f"rows-{n}", file, seed, partial(fewer, count=n)) for n in sizes]
        if i == 0:
            jobs += [("choose", file, seed, choose) for file in files[6::-2]]
    rows = []
    for part, file, seed, job in jobs:
        kept = CACHE / f"{part}-{file.stem}-{seed}.json"
        if part.split("-")[0] in args.parts.split(",") and (kept.exists() or not args.finished):
            rows += cached(kept, partial(job, file, seed))
            print(part, file.stem, seed, flush=True)
    what = (
        "overlap@10 of prefixes with the full vectors, on vectors of eight models; gain over PCA "
        "of the same rows, with the 95 % interval over queries; turned: principal directions, 0 "
        "PCA, -1 nothing changed"
    )
    command = f"benchmarks/retrofit_providers.py --seeds {args.seeds} --parts {args.parts}"
    command += " --old FILE" if old else ""
    command += " --finished" if args.finished else ""
    packages = ("numpy", "torch", "mrl-course")
    write_record(
        args.out, what, command, COLUMNS, rows, packages=packages, note=NOTE,
        source="MRL_COURSE_DATA=FOLDER: files of other people's repositories, not shipped",
    )  # fmt: skip


if __name__ == "__main__":
    main()
