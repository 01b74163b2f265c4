"""Train the twins with Sentence Transformers' trainer, in one process or in several.

    python examples/train_twins.py
    torchrun --standalone --nproc_per_node 2 examples/train_twins.py --gather
    accelerate launch --multi_gpu --num_processes 2 examples/train_twins.py --gather

The last two start two processes with GPUs or without: where there is no GPU the script chooses the
CPU, and gloo to talk through. (``accelerate launch --cpu --num_processes 2`` does not: on one
machine it starts a single process, https://github.com/huggingface/accelerate/issues/2741.
``--processes 2`` stops the script when another number takes part.)

``--batch-size`` is that of all processes together, so that the same command line means the same
optimiser steps on any number of them. Each process gets an equal part of every batch. Without
``--gather`` an anchor meets only the candidates in its own part: fewer negatives, an easier task
and a lower loss. With it, the candidates of all parts are its negatives, and the loss is that of
one process.

Writes OUT/regular, OUT/matryoshka (saved models) and OUT/losses.json. The sentences are those of
``load_allnli``: MRL_COURSE_DATA or ``--source`` decides.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from transformers import PrinterCallback

from mrl_course.arguments import default_dims
from mrl_course.data import DataSourceError, load_allnli
from mrl_course.models import build_static_model, load_pretrained

TWINS = ("regular", "matryoshka")


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; what is wrong with it ends the program with a message."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Several processes: torchrun --standalone --nproc_per_node 2 "
        "examples/train_twins.py --gather",
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("build/twins_st"), help="folder to write")
    add("--source", help="hub, mini or a folder; default: MRL_COURSE_DATA")
    add("--limit", type=int, help="use only the first triplets")
    add("--model", help="a saved model's folder, or all-MiniLM-L6-v2; default: static, untrained")
    add("--dim", type=int, default=768, help="numbers per embedding of the static model")
    add("--epochs", type=float, default=1)
    add("--batch-size", type=int, default=512, help="triplets per step, over all processes")
    add("--lr", type=float, help="default 0.05 for the static model, 0.0001 for others")
    add("--seed", type=int, default=0)
    add("--gather", action="store_true", help="negatives from all processes")
    add("--processes", type=int, help="stop unless so many take part")
    add("--only", choices=TWINS, help="train one of the two")
    given = parser.parse_args(arguments)
    for name in ("dim", "batch_size", "limit"):
        value = getattr(given, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if not 0 < given.epochs < 1000:
        parser.error(f"--epochs must be above 0, got {given.epochs}")
    if given.lr is not None and given.lr <= 0:
        parser.error(f"--lr must be above 0, got {given.lr}")
    return given


def start_model(given: argparse.Namespace, triplets) -> SentenceTransformer:
    """The same start for both twins, and in every process."""
    if given.model:
        return load_pretrained(given.model)
    texts = [text for name in triplets.column_names for text in triplets[name]]
    return build_static_model(list(dict.fromkeys(texts)), given.dim, seed=given.seed)


def build_loss(model: SentenceTransformer, twin: str, gather: bool):
    """The library's loss of one twin: the only thing in which they differ."""
    loss = MultipleNegativesRankingLoss(model, scale=20.0, gather_across_devices=gather)
    if twin == "matryoshka":
        loss = MatryoshkaLoss(model, loss, default_dims(model.get_embedding_dimension()))
    return loss


def fit(twin: str, triplets, given: argparse.Namespace, state: PartialState, folder: Path):
    """Train one twin; return it with the losses of all steps."""
    set_seed(given.seed)
    model = start_model(given, triplets)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / twin),
        num_train_epochs=given.epochs,
        per_device_train_batch_size=given.batch_size // state.num_processes,
        learning_rate=given.lr or (1e-4 if given.model else 0.05),
        warmup_steps=0.1 if given.model else 0,  # a fraction: 10 per cent
        # Adam does not care how large a loss is, clipping does: it would treat the twins unlike.
        max_grad_norm=1e9,
        seed=given.seed,
        dataloader_drop_last=True,  # an incomplete batch has fewer negatives
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=state.device.type == "cpu",
        dataloader_pin_memory=state.device.type == "cuda",
        ddp_find_unused_parameters=False,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=triplets,
        loss=build_loss(model, twin, given.gather),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return model, losses


def write(out: Path, models: dict[str, SentenceTransformer], record: dict) -> None:
    """Put everything into a folder of its own first, then in its place."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as folder:
        for name, model in models.items():
            model.save(str(Path(folder) / name), create_model_card=False)
            shutil.rmtree(out / name, ignore_errors=True)
            os.replace(Path(folder) / name, out / name)
        text = json.dumps(record, indent=1) + "\n"
        (Path(folder) / "losses.json").write_text(text, encoding="utf-8")
        os.replace(Path(folder) / "losses.json", out / "losses.json")


def main(arguments: list[str] | None = None) -> None:
    """Train, and let the first process write."""
    given = options(arguments)
    # The libraries' own calls, which a user of this script cannot change.
    warnings.filterwarnings(
        "ignore", category=FutureWarning, message=".*(broadcast_buffers|gather)"
    )
    # Told where to run, it finds out whether several processes were launched.
    state = PartialState(cpu=not torch.cuda.is_available())
    say = print if state.is_main_process else (lambda *_words, **_options: None)
    if given.processes not in (None, state.num_processes):
        sys.exit(
            f"{state.num_processes} process(es) take part, not {given.processes}; on CPUs start "
            f"them with: torchrun --standalone --nproc_per_node {given.processes} ..."
        )
    if given.batch_size % state.num_processes:
        sys.exit(
            f"--batch-size {given.batch_size} cannot be split evenly among "
            f"{state.num_processes} processes; take a multiple of {state.num_processes}"
        )
    try:
        with state.main_process_first():  # one process fills a cache, the others read it
            triplets = load_allnli("train", limit=given.limit, source=given.source)
    except DataSourceError as error:
        sys.exit(str(error))
    if len(triplets) < given.batch_size:
        sys.exit(
            f"{len(triplets)} triplets do not fill one batch of {given.batch_size}; "
            "give a smaller --batch-size or a larger --limit"
        )
    share = given.batch_size // state.num_processes
    say(
        f"{len(triplets):,} triplets; batches of {given.batch_size} = {state.num_processes} "
        f"process(es) x {share} on {state.device.type}; negatives from "
        f"{'all processes' if given.gather or state.num_processes == 1 else 'the own process only'}"
    )
    models, losses = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for twin in [given.only] if given.only else TWINS:
            models[twin], losses[twin] = fit(twin, triplets, given, state, Path(folder))
            say(f"{twin}: {len(losses[twin])} steps, loss {losses[twin][0]:.3f} at first, "
                f"{losses[twin][-1]:.3f} at last")  # fmt: skip
    if state.is_main_process:
        record = {
            "processes": state.num_processes,
            "gather": given.gather,
            "batch_size": given.batch_size,
            "seed": given.seed,
            "triplets": len(triplets),
            "losses": losses,
        }
        write(given.out, models, record)
        say("wrote", given.out)
    state.wait_for_everyone()
    state.destroy_process_group()  # else torch warns at the end


if __name__ == "__main__":
    main()
