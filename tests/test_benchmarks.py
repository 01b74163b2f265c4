"""The recorded runs can be made again: each script works, in small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
QUICK = ["speed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_quick_run_writes_a_whole_record(name, tmp_path):
    out = tmp_path / "record.json"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--quick", "--out", out],
        env=os.environ | {"MRL_COURSE_DATA": "mini", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    assert f"python benchmarks/{name}.py" in record["command"]
    assert {"machine", "date", "versions"} <= set(record) and record["rows"]
    assert all(len(row) == len(record["columns"]) for row in record["rows"])
