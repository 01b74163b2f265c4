"""The recorded runs can be made again: each script works, in small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# By script: a column of its table, and what must be among it.
QUICK = {
    "speed": ("part", {"loss", "similarity_curve", "retrieval_curve", "fit_head", "training"}),
    "headline": ("method", {"raw", "pca", "regular", "matryoshka", "matryoshka + distillation"}),
    "evidence": ("method", {"regular", "matryoshka", "regular+tempered-pca", "trained-at-k"}),
    "ablations": ("method", {"regular", "matryoshka", "matryoshka, scale 12"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_quick_run_writes_a_whole_record(name, tmp_path):
    out = tmp_path / "record.json"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--quick", "--out", out],
        env=os.environ | {"MRL_COURSE_DATA": "mini", "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    assert f"python benchmarks/{name}.py" in record["command"]
    assert {"machine", "date", "versions"} <= set(record)
    rows = [dict(zip(record["columns"], row, strict=True)) for row in record["rows"]]
    column, wanted = QUICK[name]
    assert wanted <= {row[column] for row in rows}
    middle = "seconds" if name == "speed" else "value"
    for row in rows:
        if row["low"] is not None and row.get("over", "seeds") == "seeds":
            assert row["low"] <= row[middle] <= row["high"]
