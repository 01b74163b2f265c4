"""The training script runs alone and in two processes, and says what is wrong with its arguments.

Each run is a program of its own, with processes that really talk to each other through gloo.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

REPO = Path(__file__).parent.parent
SCRIPT = REPO / "examples" / "train_twins.py"
SMALL = ["--source", "mini", "--limit", "1000", "--dim", "32", "--batch-size", "128"]
# What `accelerate launch` and `torchrun` do, without asking where their scripts are installed.
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def run(launcher, *arguments):
    # CUDA_VISIBLE_DEVICES: the CPU, also where there is one GPU, which two processes cannot share.
    settings = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
    return subprocess.run(
        [*launcher, str(SCRIPT), *SMALL, *map(str, arguments)],
        env=inherited | settings | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=1800,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folders written by one process, by two that share negatives, and by two that do not."""
    out = tmp_path_factory.mktemp("twins")
    launchers = {
        "one": ([sys.executable], []),
        "shared": (
            [*ACCELERATE, "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
            ["--gather", "--processes", 2],
        ),
        "apart": (TORCHRUN, ["--only", "regular"]),
    }
    made = {}
    for name, (launcher, more) in launchers.items():
        done = run(launcher, "--out", out / name, *more)
        assert done.returncode == 0, done.stderr
        record = json.loads((out / name / "losses.json").read_text("utf-8"))
        made[name] = (out / name, record, done.stdout)
    return made


@pytest.mark.slow
def test_two_processes_with_shared_negatives_train_as_one(results):
    (_, one, _), (_, shared, text) = results["one"], results["shared"]
    assert (one["processes"], shared["processes"]) == (1, 2)
    assert "batches of 128 = 2 process(es) x 64 on cpu; negatives from all" in text
    for twin in ("regular", "matryoshka"):
        assert len(one["losses"][twin]) == len(shared["losses"][twin]) == 1000 // 128
        np.testing.assert_allclose(shared["losses"][twin], one["losses"][twin], rtol=1e-3)
        assert one["losses"][twin][-1] < 0.7 * one["losses"][twin][0]
    # The Matryoshka loss is a sum over three sizes: 8, 16 and 32.
    assert one["losses"]["matryoshka"][0] > 2.5 * one["losses"]["regular"][0]


@pytest.mark.slow
def test_the_models_are_the_same_too(results):
    texts = ["A man sleeps on a bench.", "Two children eat apples.", "Nobody is in the street."]
    for twin in ("regular", "matryoshka"):
        one, shared = (
            SentenceTransformer(str(results[name][0] / twin), device="cpu").encode(texts)
            for name in ("one", "shared")
        )
        assert one.shape == (3, 32)
        np.testing.assert_allclose(shared, one, atol=0.01 * np.abs(one).max())


@pytest.mark.slow
def test_without_shared_negatives_the_task_is_easier(results):
    (_, one, _), (_, apart, text) = results["one"], results["apart"]
    assert "negatives from the own process only" in text
    gaps = np.array(one["losses"]["regular"]) - apart["losses"]["regular"]
    # Half of the candidates are missing: at the start the loss is lower by about log 2, less
    # for the share that the anchor's own hard negative has.
    assert (gaps > 0.1).all() and gaps[0] < np.log(2)
    assert "matryoshka" not in apart["losses"]


@pytest.mark.slow
def test_only_what_is_asked_for_is_written(results):
    names = {name: sorted(file.name for file in results[name][0].iterdir()) for name in results}
    assert names["one"] == names["shared"] == ["losses.json", "matryoshka", "regular"]
    assert names["apart"] == ["losses.json", "regular"]
    for _, _, text in results.values():
        assert text.count("wrote") == 1 and text.count("regular: 7 steps") == 1


@pytest.mark.slow
def test_accelerate_on_the_cpu_starts_one_process_and_the_script_notices(tmp_path):
    done = run(
        [*ACCELERATE, "--cpu", "--num_processes", "2", "--main_process_port", "0"],
        *("--processes", 2, "--out", tmp_path / "out"),
    )
    assert done.returncode != 0 and not (tmp_path / "out").exists()
    assert "1 process(es) take part, not 2; on CPUs start them with: torchrun" in done.stderr


# --------------------------------------------------------------------- arguments, in this process


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_twins_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--limit", "-5"], "--limit must be at least 1, got -5"),
        (["--dim", "x"], "invalid int value"),
        (["--epochs", "0"], "--epochs must be above 0"),
        (["--lr", "-1"], "--lr must be above 0"),
        (["--only", "both"], "invalid choice"),
    ],
)
def test_bad_arguments_end_with_a_message(script, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        script.options(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "50", "--batch-size", "64"], "50 triplets do not fill one batch of 64"),
        (["--source", "no/such/folder"], "no/such/folder"),
        (["--processes", "3"], "1 process.es. take part, not 3"),
    ],
)
def test_what_cannot_work_is_said_before_training(script, tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        script.main(["--source", "mini", "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_results_replace_older_ones_and_nothing_partial_stays(script, tmp_path):
    model = script.build_static_model(["a few words"], 4)
    script.write(tmp_path, {"regular": model}, {"losses": {"regular": [2.0]}})
    script.write(tmp_path, {"regular": model}, {"losses": {"regular": [1.0]}})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["losses.json", "regular"]
    assert json.loads((tmp_path / "losses.json").read_text())["losses"] == {"regular": [1.0]}
