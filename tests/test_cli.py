"""The command line: what goes wrong is one line and an exit code, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mrl_course import cli
from mrl_course.commands import doctor
from mrl_course.errors import DataSourceError, LessonError, MrlCourseError, WrongKind, WrongValue

ROOT = Path(__file__).parents[1]


@pytest.fixture
def fail_with(monkeypatch):
    """A function that runs a command which raises this error."""
    monkeypatch.delenv(cli.DEBUG, raising=False)

    def run(error):
        def stop(args):
            raise error

        monkeypatch.setattr(doctor, "run", stop)
        return cli.main(["doctor"])

    return run


@pytest.mark.parametrize(
    "error",
    [
        MrlCourseError("what it is"),
        DataSourceError("what it is"),
        LessonError("what\nit is"),
        WrongKind("what it is"),
        WrongValue("what it is"),
        OSError("what it is"),
        PermissionError("what it is"),
        ImportError("what it is"),
    ],
)
def test_what_we_say_on_purpose_is_one_line_and_exit_code_2(fail_with, capsys, error):
    assert fail_with(error) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "mrl-course: error: what it is\n")


@pytest.mark.parametrize(
    "error", [KeyError("x"), ZeroDivisionError(), ValueError("a\nb"), OverflowError("x")]
)
def test_anything_else_is_one_line_that_says_how_to_see_more(fail_with, capsys, monkeypatch, error):
    assert fail_with(error) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and type(error).__name__ in line
    assert "MRL_COURSE_DEBUG=1" in line and "Traceback" not in line
    monkeypatch.setenv("MRL_COURSE_DEBUG", "1")
    assert fail_with(error) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_no_error(fail_with, capsys):
    assert fail_with(KeyboardInterrupt()) == 130
    assert "stopped by hand" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of a POSIX shell")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_stops_reading_is_no_error(unbuffered):
    """As in `mrl-course doctor | head -1`."""
    code = (
        "import sys, time; from mrl_course import cli; from mrl_course.commands import doctor\n"
        "def talk(args):\n"
        "    sys.stdin.readline()\n"
        "    for line in range(20000): print('a line of many')\n"
        "doctor.run = talk; sys.exit(cli.main(['doctor']))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdin.write(b"go\n")
    process.stdin.close()
    assert (process.wait(60), process.stderr.read()) == (141, b"")
    process.stderr.close()
