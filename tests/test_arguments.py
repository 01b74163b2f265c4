"""Checks of arguments: what is right comes back plain, what is wrong is named with its place."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from mrl_course import arguments as a
from mrl_course.errors import MrlCourseError

E = np.eye(3)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3), torch.tensor(3)])
def test_integers_of_any_library_become_plain(value):
    for got in (a.check_count("n", value), a.check_dims([value], 5)[0], a.check_seed(value)):
        assert got == 3 and type(got) is int
    assert a.check_rows("rows", [value], 5).tolist() == [3]
    assert type(a.check_number("x", value)) is float


@pytest.mark.parametrize(
    "value",
    [
        E.tolist(),
        E.astype(">f4"),
        E.astype("<f8"),
        E.astype(np.longdouble),
        E.astype(np.float16),
        E.astype(np.int8),
        np.asfortranarray(E),
        E[::-1, ::-1][::-1, ::-1],
        np.repeat(E, 2, axis=1)[:, ::2],
        read_only(E),
        np.asmatrix(E),
        np.ma.masked_array(E, False),
        pd.DataFrame(E),
        torch.eye(3, requires_grad=True),
        torch.eye(3).bfloat16(),
        list(torch.eye(3, requires_grad=True).half()),
        tuple(torch.eye(3).bfloat16()),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'dtype', '')}",
)
def test_arrays_of_any_kind_become_arrays_of_the_machine(value):
    got = a.check_embeddings("emb", value)
    assert type(got) in (np.ndarray, np.memmap) and got.dtype.isnative
    assert got.dtype.kind in "fiu" and got.dtype.itemsize <= 8
    np.testing.assert_array_equal(got, E)


def test_a_memory_mapped_file_stays_one_and_arrays_are_not_copied(tmp_path):
    np.save(tmp_path / "emb.npy", E)
    mapped = np.load(tmp_path / "emb.npy", mmap_mode="r")
    assert isinstance(a.check_matrix("emb", mapped), np.memmap)
    assert a.check_embeddings("emb", E) is E


def test_relevance_in_all_its_shapes():
    want = [[1], [0, 2]]
    for shape in (
        [[1], [0, 2]],
        [{1}, {2, 0}],
        ([1], [0, 2]),
        {1: [0, 2], 0: 1},
        {0: {1: 3, 2: 0}, 1: {0: 1, 2: 0.5}},
        [np.array([1]), torch.tensor([0, 2])],
        pd.Series([[1], [0, 2]]),
    ):
        assert [rows.tolist() for rows in a.check_relevant(shape, 2, 3)] == want
    assert [r.tolist() for r in a.check_relevant(torch.tensor([2, 0]), 2, 3)] == [[2], [0]]


def test_labels_are_codes_of_equal_things():
    assert a.check_labels("labels", ["b", "a", "b"], 3).tolist() == [1, 0, 1]
    assert a.check_labels("labels", np.array([7, 7, 3]), 3).tolist() == [1, 1, 0]
    assert a.check_labels("labels", torch.tensor([7, 7, 3]), 3).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: a.check_count("n", 2.0), TypeError, "n must be an integer, got 2.0"),
        (lambda: a.check_count("n", True), TypeError, "got True"),
        (lambda: a.check_count("n", np.True_), TypeError, "got np.True_"),
        (lambda: a.check_count("n", torch.tensor(True)), TypeError, "n must be an integer"),
        (lambda: a.check_count("n", "3"), TypeError, "got '3'"),
        (lambda: a.check_count("n", np.array([3])), TypeError, "n must be an integer"),
        (lambda: a.check_count("n", 0), ValueError, "n must be at least 1, got 0"),
        (
            lambda: a.check_count("n", 9, most=8, of="the rows"),
            ValueError,
            "1 and 8 .the rows., got",
        ),
        (lambda: a.check_seed(-1), ValueError, "seed must be between 0 and"),
        (lambda: a.check_number("x", None), TypeError, "x must be a number, got None"),
        (lambda: a.check_number("x", np.ones(2)), TypeError, "x must be a number"),
        (lambda: a.check_number("x", float("nan")), ValueError, "x must be finite, got nan"),
        (lambda: a.check_number("x", 10**400), ValueError, "x must be finite, got inf"),
        (
            lambda: a.check_number("x", 1 + 1e-15, above=0, most=1),
            ValueError,
            r"got 1\.00000000000",
        ),
        (lambda: a.check_number("x", np.inf, above=0), ValueError, "above 0 and finite, got inf"),
        (lambda: a.check_choice("x", "c", ["a", "b"]), ValueError, "one of .'a', 'b'., got 'c'"),
        (lambda: a.check_choice("x", 1, ["a", "b"]), TypeError, "got 1"),
        (lambda: a.check_dims("8", 8), TypeError, "dims must be a list of integers"),
        (lambda: a.check_dims(np.array(8), 8), TypeError, "dims must be a list of integers"),
        (lambda: a.check_dims({8: 1}, 8), TypeError, "dims must be a list of integers"),
        (lambda: a.check_dims([4.0], 8), TypeError, r"dims must be integers, got 4.0 \(float\)"),
        (lambda: a.check_dims([4, 4], 8), ValueError, "holds 4 more than once"),
        (lambda: a.check_dims([9], 8), ValueError, "dims holds 9"),
        (lambda: a.check_dims([], 8), ValueError, "dims is empty"),
        (lambda: a.check_weights("12", 2), TypeError, "weights must be a list of numbers"),
        (
            lambda: a.check_weights([1, -1], 2),
            ValueError,
            r"weights\[1\] must be at least 0, got -1",
        ),
        (lambda: a.check_weights([0, 0], 2, training=True), ValueError, "weights are all 0"),
        (lambda: a.check_weights([1], 2), ValueError, "2 dims need 2 weights, got 1"),
        (lambda: a.check_numbers("emb", [["a"]]), TypeError, "emb must hold numbers"),
        (lambda: a.check_numbers("emb", [[1, None]]), TypeError, "emb must hold numbers"),
        (lambda: a.check_numbers("emb", E > 0), TypeError, "got dtype bool"),
        (lambda: a.check_numbers("emb", E * 1j), TypeError, "got dtype complex128"),
        (lambda: a.check_numbers("emb", [[1, 2], [3]]), TypeError, "emb must be one array"),
        (
            lambda: a.check_numbers("emb", torch.eye(2).to_sparse()),
            TypeError,
            "emb must be one arr",
        ),
        (lambda: a.check_numbers("emb", np.ma.masked_equal(E, 0)), TypeError, "masked in places"),
        (lambda: a.check_matrix("emb", E[0]), ValueError, r"shape \(n, D\)"),
        (lambda: a.check_matrix("emb", E[:0]), ValueError, r"shape \(n, D\)"),
        (lambda: a.check_matrix("emb", np.packbits(E > 0, axis=1)), TypeError, "packed sign bits"),
        (
            lambda: a.check_embeddings("emb", [[1, 2], [3, np.nan]]),
            ValueError,
            "row 1: nan .number 1",
        ),
        (lambda: a.check_finite("emb", np.array([[np.inf]]), 70), ValueError, "in row 70: inf"),
        (lambda: a.check_queries(np.ones(4), 3), ValueError, "queries have 4 numbers and the corp"),
        (lambda: a.check_values("scores", [1, 2], 3, "pairs"), ValueError, "3 pairs need 3 scores"),
        (lambda: a.check_values("scores", [1, np.inf], 2, "pairs"), ValueError, "row 1: inf"),
        (lambda: a.check_steps(5, 8, 1), TypeError, "pairs of integers, got 5"),
        (lambda: a.check_steps([(4, 2.0)], 8, 1), TypeError, r"got \[4, 2.0\]|got \(4, 2.0\)"),
        (lambda: a.check_rows("liked", [0, 1.7], 3), TypeError, "got 1.7 .float. at place 1"),
        (lambda: a.check_rows("liked", np.array([0.0]), 3), TypeError, "at place 0"),
        (lambda: a.check_rows("liked", [True], 3), TypeError, "got True .bool. at place 0"),
        (lambda: a.check_rows("liked", torch.tensor([True, False]), 3), TypeError, "at place 0"),
        (lambda: a.check_rows("liked", "12", 3), TypeError, "liked must be a list of row numbers"),
        (lambda: a.check_rows("liked", {0, "a"}, 3), TypeError, "liked must be a list of row num"),
        (lambda: a.check_rows("liked", [0, -1], 3), ValueError, "holds -1 at place 1"),
        (lambda: a.check_rows("liked", np.array([0, 3]), 3), ValueError, "holds 3 at place 1"),
        (lambda: a.check_rows("liked", [0, 2, 0], 3), ValueError, "row 0 twice, again at place 2"),
        (lambda: a.check_relevant("01", 2, 3), TypeError, "relevant must be a list"),
        (lambda: a.check_relevant({0, 1}, 2, 3), TypeError, "a set, which has no order"),
        (lambda: a.check_relevant(E[:2], 2, 3), TypeError, "matrix of 2 x 3"),
        (lambda: a.check_relevant(torch.eye(3)[:2], 2, 3), TypeError, "matrix of 2 x 3"),
        (lambda: a.check_relevant([[1, 0, 0], [0, 1, 0]], 2, 3), ValueError, "row 0 twice"),
        (lambda: a.check_relevant([(0, 2), (1, 1)], 2, 3), ValueError, r"could be \(row, grade\)"),
        (lambda: a.check_relevant({"q": [1], 0: [1]}, 2, 3), TypeError, "keys of relevant .*'q'"),
        (lambda: a.check_relevant({0: [1], 2: [1]}, 2, 3), ValueError, "keys of relevant holds 2"),
        (lambda: a.check_relevant({0: {1: 0}, 1: {1: 1}}, 2, 3), ValueError, "query 0 has no rel"),
        (lambda: a.check_relevant({0: {1: "x"}, 1: 1}, 2, 3), TypeError, "grade in relevant.0."),
        (lambda: a.check_labels("labels", [1, 1.0], 2), TypeError, "got 1.0 .float. at place 1"),
        (lambda: a.check_labels("labels", [1, "1"], 2), TypeError, "got '1' .str. at place 1"),
        (lambda: a.check_labels("labels", [True, False], 2), TypeError, "got True .bool."),
        (lambda: a.check_labels("labels", E[:2], 2), TypeError, "at place 0"),
        (lambda: a.check_labels("labels", [1], 2), ValueError, "2 rows need 2 labels, got 1"),
        (lambda: a.check_texts("texts", "one"), TypeError, "texts must be a list of strings"),
        (lambda: a.check_texts("texts", ["a", None]), TypeError, r"texts\[1\] is None"),
        (lambda: a.check_texts("texts", ["a\ud83d"]), ValueError, r"texts\[0\] holds half a char"),
        (lambda: a.check_texts("texts", ["\u200b"], blank=False), ValueError, "is blank"),
        (lambda: a.check_texts("texts", pd.DataFrame({"a": ["b"]})), TypeError, "one column"),
    ],
)
def test_what_is_wrong_is_named(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert isinstance(caught.value, MrlCourseError)


def test_zero_rows_of_a_call_go_into_one_warning_at_the_callers_line():
    zero = np.array([False, True, True])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        a.warn_zero_rows("emb1", zero, 10, emb2=~zero, emb3=zero & ~zero)
        a.warn_zero_rows("emb1", zero & ~zero)
    (warning,) = caught
    assert str(warning.message).startswith(
        "2 of 3 rows of emb1 hold only zeros, first row 11; 1 of 3 rows of emb2 hold only zeros, "
        "first row 0; they have no direction"
    )
    assert warning.filename == __file__
    assert a.zero_rows(np.array([[0.0, -0.0], [0, 1e-300]])).tolist() == [True, False]
