"""Claims, the three states of an exercise, and a self-test of every exercise in the course."""

import re
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mrl_course import check
from mrl_course.check import ClaimError, Exercise, Wrong, claim, compare_arrays, engine, register

# ---------------------------------------------------------------------------------- claims


@pytest.mark.parametrize(
    "condition", [True, np.bool_(True), np.array(True), torch.tensor(2.0) > torch.tensor(1.0)]
)
def test_a_true_claim_prints_a_tick(condition, capsys):
    assert claim("two is more than one", condition, a=2) is None
    assert capsys.readouterr().out == "✓ two is more than one\n"


@pytest.mark.parametrize("condition", [False, np.bool_(False), torch.tensor(False)])
def test_a_false_claim_raises_with_the_numbers(condition):
    with pytest.raises(ClaimError, match="cats are dogs.*a = 0.98371, b = 0.98372") as caught:
        claim("cats are dogs", condition, a=torch.tensor(0.98371), b=np.float64(0.98372))
    assert isinstance(caught.value, AssertionError)


@pytest.mark.parametrize(
    "condition",
    [None, 1, 0.0, "yes", [], np.array([True]), torch.tensor([True, True]), np.array(1.0), claim],
)
def test_a_claim_takes_one_truth_value_only(condition, capsys):
    with pytest.raises(TypeError, match=r"one truth value.*\.all\(\)"):
        claim("text", condition)
    assert not capsys.readouterr().out


def test_findings_print_one_line_for_all_claims(capsys):
    with check.findings():
        claim("two is more than one", 2 > 1)
        claim("three is more than two", 3 > 2)
    assert capsys.readouterr().out == "✓ 2 findings of this section hold in this run\n"
    with check.findings():
        claim("two is more than one", 2 > 1)
    assert capsys.readouterr().out == "✓ 1 finding of this section holds in this run\n"


def test_findings_raise_with_the_numbers_and_print_no_tick(capsys):
    with pytest.raises(ClaimError, match=r"cats are dogs.*a = 3"), check.findings():
        claim("two is more than one", 2 > 1)
        claim("cats are dogs", False, a=3)
    assert capsys.readouterr().out == ""
    claim("claims print again afterwards", True)
    assert capsys.readouterr().out == "✓ claims print again afterwards\n"


def test_findings_without_a_claim_are_a_mistake():
    with pytest.raises(ValueError, match="at least one"), check.findings():
        pass


@pytest.mark.parametrize("text", ["", "  ", True, None])
def test_a_claim_needs_its_text(text):
    with pytest.raises(TypeError, match="text of the claim"):
        claim(text, True)


# --------------------------------------------------------------------------- two exercises


def unit(emb):
    """Divide every row by its length."""
    return emb / torch.linalg.vector_norm(emb, dim=1, keepdim=True)


def unit_inplace(emb):
    emb /= torch.linalg.vector_norm(emb, dim=1, keepdim=True)
    return emb


def crashes(emb):
    raise ValueError(f"no rows in {tuple(emb.shape)}")


def exits(emb):
    sys.exit("bye")


@pytest.fixture
def samples(monkeypatch):
    """Two exercises, as a lesson declares them: one wants a function, one a number."""
    monkeypatch.setattr(engine, "REGISTRY", {})
    monkeypatch.setitem(sys.modules, "mrl_course.check", ModuleType("mrl_course.check"))

    @register(
        lesson=5,
        answer=unit,
        expects="a function unit(emb) -> tensor (n, D) with rows of length 1",
        why="Only unit vectors make the dot product a cosine.",
        hints=["What is the length of a row?", "torch.linalg.vector_norm(emb, dim=1)"],
        wrong_answers=[
            Wrong(lambda emb: emb, says="normalisation"),
            Wrong(lambda emb: emb / emb.norm(), says="normalisation"),
            Wrong(unit_inplace, says="in place"),
            Wrong(crashes, says="ValueError: no rows in (2, 2)"),
            Wrong(exits, says="SystemExit: bye"),
        ],
    )
    def unit_rows(function):
        emb = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
        return compare_arrays(function(emb), unit(emb))

    @register(
        lesson=1,
        answer=3072,
        expects="the number of bytes, an integer",
        why="Bytes are what a vector costs.",
        hints=["How many bytes has a float32?"],
        wrong_answers=[Wrong(768, says="every number takes 4"), Wrong("3072", says="in quotes")],
        solution_text="768 numbers of 4 bytes are 3072 bytes.",
    )
    def bytes_of_a_vector(answer):
        if isinstance(answer, str):
            return "it is a text in quotes."
        return None if answer == 3072 else f"{answer} is not right: every number takes 4 bytes."

    return engine.REGISTRY


def self_test(exercise: Exercise) -> None:
    """The stub is not attempted, each known mistake is named, and the key is correct."""

    def raises(*args, **kwargs):
        raise NotImplementedError

    stubs = [..., None]
    if callable(exercise.answer) and not isinstance(exercise.answer, type):
        stubs += [raises, lambda *args, **kwargs: None, lambda *args, **kwargs: ...]
    for stub in stubs:
        exercise(stub)
        assert exercise.state == "not attempted", exercise.message
    for wrong in exercise.wrong_answers:
        exercise(wrong.answer)
        assert exercise.state == "wrong", exercise.message
        assert "stopped with" not in exercise.message, exercise.message
        assert wrong.says and wrong.says in exercise.message.replace(exercise.expects, "")
    exercise(exercise.answer)
    assert exercise.state == "correct", exercise.message


def course_exercises():
    return check.exercises()


@pytest.mark.parametrize("exercise", course_exercises(), ids=lambda exercise: exercise.name)
def test_every_exercise_of_the_course(exercise, capsys):
    try:
        self_test(exercise)
        for n in range(1, len(exercise.hints) + 1):
            exercise.hint(n)
        capsys.readouterr()
        exercise.solution()
        printed = capsys.readouterr().out.rstrip()
        assert "not available" not in printed and not printed.endswith(":")
        assert len(printed.splitlines()) > 1  # the name, then the key
    finally:
        exercise(...)


def test_the_samples_pass_the_self_test(samples):
    for exercise in check.exercises():
        self_test(exercise)


def test_the_self_test_finds_a_checker_that_accepts_everything(samples):
    samples["unit_rows"]._checker = lambda answer: None
    with pytest.raises(AssertionError):
        self_test(samples["unit_rows"])


def test_the_self_test_finds_a_checker_that_crashes(samples):
    samples["bytes_of_a_vector"]._checker = lambda answer: answer.no_such_thing
    with pytest.raises(AssertionError, match="stopped with AttributeError"):
        self_test(samples["bytes_of_a_vector"])


# ------------------------------------------------------------------------------ the states


def test_not_attempted_says_how_to_get_a_hint(samples, capsys):
    assert check.unit_rows(...) is None
    assert capsys.readouterr().out == (
        "○ unit_rows: not attempted yet. For a hint: check.unit_rows.hint()\n"
    )
    assert check.unit_rows.state == "not attempted"


def test_a_forgotten_return_and_a_stub_with_a_message_are_told(samples):
    check.unit_rows(lambda emb: None)
    assert "is a `return` missing?" in check.unit_rows.message
    check.bytes_of_a_vector([..., 1])
    assert check.bytes_of_a_vector.state == "not attempted"

    def unsupported(emb):
        raise NotImplementedError("not for this dtype")

    check.unit_rows(unsupported)
    assert check.unit_rows.state == "not attempted"
    assert "not for this dtype" in check.unit_rows.message


def test_correct_says_why_it_matters(samples, capsys):
    check.unit_rows(unit)
    assert capsys.readouterr().out == (
        "✓ unit_rows: correct. Only unit vectors make the dot product a cosine.\n"
    )
    assert check.unit_rows.state == "correct"


def test_wrong_shows_the_value_and_what_is_expected(samples, capsys):
    check.bytes_of_a_vector(768)
    assert capsys.readouterr().out == (
        "✗ bytes_of_a_vector: you gave 768. 768 is not right: every number takes 4 bytes. "
        "Expected: the number of bytes, an integer.\n"
    )


def test_a_call_instead_of_a_function_and_the_reverse(samples):
    check.unit_rows(unit(torch.ones(1, 2)))
    assert "without calling it: check.unit_rows(my_function)" in check.unit_rows.message
    check.bytes_of_a_vector(lambda: 3072)
    assert "Call it" in check.bytes_of_a_vector.message
    assert check.bytes_of_a_vector.state == check.unit_rows.state == "wrong"


def test_an_exception_is_reported_with_the_learners_line(samples):
    check.unit_rows(crashes)
    assert "raised ValueError: no rows in (2, 2) (at `raise ValueError(" in check.unit_rows.message


def test_ctrl_c_still_stops(samples):
    def interrupted(emb):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check.unit_rows(interrupted)


def test_an_in_place_change_never_reaches_the_checkers_data(samples):
    data = torch.tensor([[3.0, 4.0]])
    table = {"rows": [np.ones(2), data]}
    with pytest.raises(engine._Problem, match="argument `emb` in place"):
        engine._watched(unit_inplace)(data)
    with pytest.raises(engine._Problem, match="argument `table` in place"):
        engine._watched(lambda table: table["rows"].pop())(table=table)
    assert data.tolist() == [[3.0, 4.0]]
    assert len(table["rows"]) == 2


def test_gradients_reach_the_checkers_tensor():
    x = torch.ones(2, 2, requires_grad=True)
    engine._watched(lambda emb: (emb**2).sum())(x).backward()
    assert x.grad.tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_a_result_for_one_input_and_none_for_another_is_wrong():
    function = engine._watched(lambda k: k if k > 1 else None)
    function(2)
    with pytest.raises(engine._Problem, match="branch without `return`"):
        function(1)


def test_an_error_after_a_result_is_wrong_not_unattempted():
    def halfway(k):
        if k == 1:
            raise NotImplementedError("k of 1")
        return k

    function = engine._watched(halfway)
    function(2)
    with pytest.raises(engine._Problem, match="raised NotImplementedError: k of 1"):
        function(1)


def test_a_checker_must_return_a_sentence(samples):
    samples["unit_rows"]._checker = lambda answer: False
    with pytest.raises(TypeError, match="None or a sentence, not False"):
        check.unit_rows(unit)


class Broken:
    def __repr__(self):
        raise RuntimeError("no repr")

    def __eq__(self, other):
        raise RuntimeError("no eq")


def test_no_answer_breaks_the_checker(samples):
    for answer in [
        Broken(),
        Broken,
        "x" * 1000,
        float("nan"),
        [[1], [1, 2]],
        object(),
        np.zeros(0),
    ]:
        for exercise in samples.values():
            exercise(answer)
            assert exercise.state == "wrong"
            assert len(exercise.message) < 400


# --------------------------------------------------------------- hints, solutions, look-up


def test_hints_come_in_stages(samples, capsys):
    for n in (1, 2, 3, 0, "two"):
        check.unit_rows.hint(n)
    out = capsys.readouterr().out
    assert "Hint 1 of 2: What is the length of a row?" in out
    assert "check.unit_rows.hint(2)" in out
    assert "Hint 2 of 2: torch.linalg" in out
    assert "There is no hint 3: unit_rows has 2" in out
    assert out.count("Hints are numbered from 1 to 2") == 2


def test_the_solution_is_the_source_of_the_key(samples, capsys):
    check.unit_rows.solution()
    out = capsys.readouterr().out
    assert f"# {__name__}.unit\ndef unit(emb):" in out
    check.bytes_of_a_vector.solution()
    assert capsys.readouterr().out.endswith("768 numbers of 4 bytes are 3072 bytes.\n3072\n")


@pytest.mark.parametrize("key", ["select 1", {"k": [1, 2]}, [0.25] * 40, np.float32(0.5), 7])
def test_a_key_that_is_a_value_is_printed_whole(samples, capsys, key):
    check.bytes_of_a_vector.answer = key
    check.bytes_of_a_vector.solution_text = "The key:"
    check.bytes_of_a_vector.solution()
    assert capsys.readouterr().out.endswith(f"The key:\n{key if np.isscalar(key) else repr(key)}\n")


def test_showing_an_exercise_does_not_show_its_key(samples):
    assert "3072" not in repr(check.bytes_of_a_vector)
    assert "not attempted" in repr(check.bytes_of_a_vector)


def test_names_are_looked_up_and_close_ones_suggested(samples):
    assert dir(check) == sorted([*check.__all__, "unit_rows", "bytes_of_a_vector"])
    assert [exercise.name for exercise in check.exercises(lesson=1)] == ["bytes_of_a_vector"]
    with pytest.raises(AttributeError, match="'unit_row'.*Did you mean unit_rows"):
        check.unit_row  # noqa: B018
    assert not hasattr(check, "_private")


def test_a_name_is_registered_once_and_every_part_is_filled(samples):
    parts = dict(
        lesson=1, answer=1, expects="x", why="y", hints=["z"], wrong_answers=[Wrong(2, "")]
    )
    for name in ("unit_rows", "claim", "class", "_private"):
        with pytest.raises(ValueError, match=f"called '{name}'"):
            register(**parts)(type("F", (), {"__name__": name})())
    with pytest.raises(ValueError, match="'empty'.*must not be empty"):
        register(**parts | {"hints": []})(type("F", (), {"__name__": "empty"})())


# ----------------------------------------------------------------------- comparing arrays

W = np.array([[1.0, 2.0, 4.0], [3.0, -5.0, 0.5]])


@pytest.mark.parametrize(
    ("got", "want", "says"),
    [
        (W.T, W, "transposed"),
        (W[None], W, "axis of length 1"),
        (W[:, :2], W, r"shape \(2, 2\), and \(2, 3\)"),
        (1.0, W, "single number, and an array"),
        (W, 1.0, "and a single number is expected"),
        (np.where(W == 4, np.nan, W), W, r"1 value\(s\) that are NaN.*index \[0, 2\]"),
        (np.float32("inf"), 1.0, "NaN or infinite"),
        ("abc", 1.0, "should hold numbers"),
        ([[1], [1, 2]], W, "cannot be read as an array"),
        (2.5 * W, W, "multiplied by 2.5"),
        (-W, W, "wrong sign"),
        (W - 1, W, "plus -1"),
        (0 * W, W, "every value is zero"),
        (W * [[2.0], [3.0]], W, "normalisation"),
        (W[:, ::-1], W, "reverse order"),
        (W[:, [1, 0, 2]], W, "wrong order"),
        (W[::-1], W, "wrong places"),
        (W[:, :2].T, W[:, :2], "transposed"),
        (np.where(W == 4, 4.5, W), W, r"1 of 6 values.*4.5 instead of 4 at index \[0, 2\]"),
        (W.astype(int), W, "whole numbers only"),
        (2.0, -2.0, "sign is wrong"),
        (2.0, 3.0, "2 instead of 3"),
        ([1.0, 2.0], [1, 2], "decimal numbers, and integers"),
        ([1, 0], [True, False], "integers, and True or False"),
        ([3, 2, 1], [1, 2, 3], "reverse order"),
        ([1, 2, 4], [1, 2, 3], "1 of 3 values.*4 instead of 3"),
        (torch.tensor([1.0, 2.5]), [1.0, 2.0], "2.5 instead of 2"),
    ],
)
def test_compare_arrays_names_the_difference(got, want, says):
    problem = compare_arrays(got, want)
    assert problem is not None
    assert re.search(says, problem), problem


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (W, torch.tensor(W)),
        (torch.tensor(W, requires_grad=True), W),
        (torch.tensor(W, dtype=torch.bfloat16), W),
        ([1, 2], [1.0, 2.0]),
        ([torch.tensor(1.0), torch.tensor(2.0)], [1.0, 2.0]),
        ([1e9 + 1], [1e9]),
        ([np.nan, np.inf], [np.nan, np.inf]),
        (np.zeros((0, 3)), np.zeros((0, 3))),
        (np.array([1], dtype=np.uint8), np.array([1])),
    ],
)
def test_compare_arrays_accepts_equal_values(got, want):
    assert compare_arrays(got, want) is None


def test_compare_arrays_keeps_the_tolerance():
    assert compare_arrays([1.0], [1.0 + 1e-9]) is None
    assert compare_arrays([1.0, 2.0], [1.0, 2.01]) is not None
    assert compare_arrays([1.0, 2.0], [1.0, 2.01], atol=0.1) is None
    assert compare_arrays(torch.tensor([1 + 1e-9], dtype=torch.float64), [1.0], 0, 0) is not None


small = arrays(np.float64, (3, 2), elements=st.floats(-100, 100, width=32))


@given(small, small)
def test_compare_arrays_agrees_with_isclose(got, want):
    equal = bool(np.isclose(got, want, atol=1e-6, rtol=1e-5).all())
    problem = compare_arrays(got, want)
    assert (problem is None) == equal
    assert problem is None or problem.endswith(".")
