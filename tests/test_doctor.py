"""`mrl-course doctor`: every failure is forced once, and none becomes a traceback."""

import argparse
import builtins
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mrl_course import data
from mrl_course.commands import doctor, lessons
from mrl_course.commands.doctor import NOTE, OK, PROBLEM


@pytest.fixture(autouse=True)
def embedded_data(monkeypatch):
    monkeypatch.setenv("MRL_COURSE_DATA", "mini")


def findings(check):
    return list(check())


def only(check):
    (finding,) = check()
    return finding


def raises(error):
    def function(*args, **kwargs):
        raise error

    return function


def test_all_is_well_here(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", [doctor.check_python, doctor.check_torch])
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers())
    args = parser.parse_args(["doctor"])
    assert args.func(args) == 0
    out = capsys.readouterr().out
    assert out.startswith("ok       Python 3.")
    assert "multiplies matrices on cpu" in out and out.endswith("Ready for lesson 00.\n")


def test_every_check_is_run():
    defined = [value for name, value in vars(doctor).items() if name.startswith("check_")]
    assert sorted(map(id, doctor.CHECKS)) == sorted(map(id, defined))


def test_a_problem_sets_the_exit_code_and_a_note_does_not(monkeypatch, capsys):
    note = doctor.Finding(NOTE, "fact", "do this")
    monkeypatch.setattr(doctor, "CHECKS", [lambda: [note]])
    assert doctor.run(argparse.Namespace()) == 0
    assert capsys.readouterr().out.startswith("note     fact\n         -> do this\n")
    monkeypatch.setattr(doctor, "CHECKS", [lambda: [doctor.Finding(PROBLEM, "bad", "x"), note]])
    assert doctor.run(argparse.Namespace()) == 1
    assert "1 problem(s) to solve" in capsys.readouterr().out


def test_a_check_that_breaks_is_a_problem_and_the_others_go_on(monkeypatch, capsys):
    def check_moon():
        yield doctor.Finding(OK, "never shown")
        raise KeyError("cheese")

    monkeypatch.setattr(doctor, "CHECKS", [check_moon, doctor.check_python])
    assert doctor.run(argparse.Namespace()) == 1
    out = capsys.readouterr().out
    assert "problem  the check of moon stopped with KeyError: 'cheese'" in out
    assert "ok       Python 3." in out


def test_without_a_home_folder_the_cure_is_to_set_one(monkeypatch, capsys):
    def check_home_needing_thing():
        yield doctor.Finding(OK, "never shown")
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(doctor, "home_folder", lambda: None)
    assert "set HOME" in only(doctor.check_home).fix
    assert findings(doctor.check_kernel) == []  # it would make a folder called ~
    monkeypatch.setattr(doctor, "CHECKS", [check_home_needing_thing])
    assert doctor.run(argparse.Namespace()) == 1
    out = capsys.readouterr().out
    assert "set HOME" in out and "install" not in out
    monkeypatch.setattr(doctor, "home_folder", lambda: Path("here"))
    assert only(doctor.check_home).level == OK


# --------------------------------------------------------------------- Python and packages


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    finding = only(doctor.check_python)
    assert finding.level == PROBLEM and "3.9.18 is too old" in finding.fact
    assert "3.10 or newer" in finding.fix


@pytest.fixture
def installed(monkeypatch):
    """Pretend that the course is installed, with these packages beside it."""
    versions = {"numpy": "2.0", "torch": "2.6.0+cpu", "nbclient": "0.10"}
    requires = ["numpy>=1.26", "torch>=2.2", 'nbclient>=0.10; extra == "lessons"']
    requires += ['ruff>=0.9; extra == "dev"', 'tomli>=2; python_version < "3"']

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "requires", lambda name: requires)
    monkeypatch.setattr(metadata, "version", version)
    return versions


def test_versions_that_fit(installed):
    assert only(doctor.check_versions) == doctor.Finding(
        OK, "3 of 3 packages have a version that fits"
    )


@pytest.mark.parametrize(
    ("name", "version", "level", "fact", "fix"),
    [
        ("torch", "2.1.2", PROBLEM, "torch 2.1.2 does not fit >=2.2", '"torch>=2.2"'),
        ("torch", None, PROBLEM, "torch is not installed", 'pip install "torch>=2.2"'),
        ("nbclient", "0.9", NOTE, "nbclient 0.9 does not fit", '"nbclient>=0.10"'),
        ("nbclient", None, NOTE, "nbclient is not installed", '"nbclient>=0.10"'),
    ],
)
def test_a_version_that_does_not_fit(installed, name, version, level, fact, fix):
    installed.pop(name)
    if version:
        installed[name] = version
    finding, summary = findings(doctor.check_versions)
    assert finding.level == level and fact in finding.fact and fix in finding.fix
    assert summary.fact.startswith("2 of 3 packages")


def test_a_course_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(metadata, "requires", raises(metadata.PackageNotFoundError("mrl-course")))
    finding = only(doctor.check_versions)
    assert finding.level == NOTE and "pip install -e" in finding.fix


def test_imports(monkeypatch):
    monkeypatch.setattr(doctor, "IMPORTED", ("numpy", "sklearn"))
    assert only(doctor.check_imports).level == OK
    monkeypatch.setattr(
        doctor.importlib, "import_module", raises(AttributeError("numpy has no _ARRAY_API"))
    )
    finding = only(doctor.check_imports)
    assert finding.level == PROBLEM and "AttributeError: numpy has no _ARRAY_API" in finding.fact
    monkeypatch.setattr(doctor, "IMPORTED", ("sklearn",))
    assert "scikit-learn" in only(doctor.check_imports).fix


# --------------------------------------------------------------------------- the processor


def test_a_device_that_fails_is_named_and_the_others_are_tried(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    ones = torch.ones

    def broken(*shape, device):
        if device == "cuda":
            raise RuntimeError("no kernel image is available")
        return ones(*shape) * (2 if device == "mps" else 1)

    monkeypatch.setattr(torch, "ones", broken)
    cpu, cuda, mps = doctor.check_torch()
    assert cpu.level == OK
    assert cuda.level == PROBLEM and "fails on cuda (RuntimeError: no kernel" in cuda.fact
    assert "CUDA_VISIBLE_DEVICES" in cuda.fix
    assert mps.level == PROBLEM and "instead of 262144" in mps.fact


def test_a_torch_that_cannot_be_imported(monkeypatch):
    real = builtins.__import__

    def fake(name, *args):
        if name == "torch":
            raise OSError("libtorch is missing")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", fake)
    finding = only(doctor.check_torch)
    assert finding.level == PROBLEM and "OSError: libtorch is missing" in finding.fact


@pytest.mark.parametrize(
    ("cores", "threads", "level", "fix"),
    [(4, 4, OK, ""), (4, 1, NOTE, "unset"), (2, 8, NOTE, "OMP_NUM_THREADS=2"), (None, 1, OK, "")],
)
def test_threads(monkeypatch, cores, threads, level, fix):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    finding = only(doctor.check_threads)
    assert finding.level == level and fix in finding.fix
    assert f"{threads} thread(s)" in finding.fact and "OMP_NUM_THREADS is 7" in finding.fact


# -------------------------------------------------------------------------------- the data


def test_the_data_is_loaded_without_more_words(monkeypatch, capsys):
    monkeypatch.setattr(data, "describe_source", lambda: "the moon")
    monkeypatch.setattr(data, "load_stsb", lambda split: print("chatter") or range(1600))
    assert only(doctor.check_data) == doctor.Finding(OK, "data: the moon; 1,600 test pairs loaded")
    assert capsys.readouterr().out == ""


def test_data_that_cannot_be_loaded(monkeypatch, tmp_path):
    monkeypatch.setenv("MRL_COURSE_DATA", str(tmp_path / "gone"))
    finding = only(doctor.check_data)
    assert finding.level == PROBLEM and "gone" in finding.fact
    assert "MRL_COURSE_DATA=mini" in finding.fix
    monkeypatch.setenv("MRL_COURSE_DATA", str(tmp_path))
    assert only(doctor.check_data).level == PROBLEM


def test_the_hub(monkeypatch):
    monkeypatch.setattr(data, "probe_hub", lambda data_set: "it cannot be reached")
    finding = only(doctor.check_hub)
    assert finding.level == NOTE and "it cannot be reached" in finding.fact
    assert "--download" in finding.fix
    monkeypatch.setattr(data, "probe_hub", lambda data_set: None)
    assert only(doctor.check_hub).level == OK


# ------------------------------------------------------------------------------------ disk


@pytest.mark.parametrize(
    ("check", "level"),
    [(doctor.check_current_folder, PROBLEM), (doctor.check_cache_folder, NOTE)],
)
def test_disk(check, level, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=5e9))
    assert only(check).level == OK and "5.0 GB free" in only(check).fact
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e8))
    assert only(check).level == level and "0.1 GB free" in only(check).fact and only(check).fix
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", raises(PermissionError(13, "Denied")))
    assert only(check).level == level and "cannot be written to (Denied)" in only(check).fact


# --------------------------------------------------------------------------------- lessons


def kernel(monkeypatch, argv):
    from jupyter_client.kernelspec import KernelSpecManager

    spec = (lambda self, name: SimpleNamespace(argv=argv)) if isinstance(argv, list) else argv
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", spec)
    return only(doctor.check_kernel)


def test_the_kernel(monkeypatch):
    from jupyter_client.kernelspec import NoSuchKernel

    assert kernel(monkeypatch, [sys.executable]).level == OK
    assert kernel(monkeypatch, [str(Path(sys.executable).with_name("python3"))]).level == OK
    assert kernel(monkeypatch, ["python"]).level == OK
    other = kernel(monkeypatch, [str(Path("/elsewhere/bin/python"))])
    assert other.level == NOTE and "elsewhere" in other.fact and "ipykernel install" in other.fix
    missing = kernel(monkeypatch, raises(NoSuchKernel("python3")))
    assert missing.level == PROBLEM and "ipykernel" in missing.fix
    monkeypatch.setitem(sys.modules, "jupyter_client.kernelspec", None)
    assert "Jupyter is not installed" in only(doctor.check_kernel).fact


def test_lessons_are_counted(monkeypatch, tmp_path):
    monkeypatch.setattr(lessons, "notebook_folder", lambda: tmp_path)
    finding = only(doctor.check_lessons)
    assert finding.level == PROBLEM and "There are no lessons" in finding.fact
    (tmp_path / "00_start.ipynb").touch()
    assert only(doctor.check_lessons).fact.startswith("1 lessons in")
