"""A Tensor computes what NumPy computes, on the same memory."""

from __future__ import annotations

import copy
import operator
import pickle

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.tensors import Tensor

DTYPES = ("float32", "float64", "int32", "int64", "uint8", "bool")
BINARY = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.pow,
    operator.lt,
    operator.le,
    operator.eq,
    operator.ne,
    operator.gt,
    operator.ge,
)
IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow)


def ramp(*shape, dtype="float32"):
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


def same(result, expected):
    """``result`` is a Tensor with the values, shape and dtype of ``expected``."""
    assert isinstance(result, Tensor)
    np.testing.assert_array_equal(result.numpy(), expected)
    assert result.dtype == np.asarray(expected).dtype
    assert result.shape == np.shape(expected)


def outcome(function, *arguments):
    """What ``function`` returns, or the kind of error that it raises."""
    with np.errstate(all="ignore"):
        try:
            return function(*arguments)
        except (TypeError, ValueError) as error:
            return type(error)


@st.composite
def broadcast_pairs(draw):
    # From one axis on: older NumPy's ** takes shortcuts of its own for arrays of none.
    shapes = draw(
        hnp.mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=3, max_side=4)
    )
    return tuple(
        draw(hnp.arrays(draw(st.sampled_from(DTYPES)), shape)) for shape in shapes.input_shapes
    )


# --- arithmetic ----------------------------------------------------------------------


@pytest.mark.parametrize("function", BINARY, ids=lambda f: f.__name__)
@given(pair=broadcast_pairs())
def test_operators_are_those_of_numpy(function, pair):
    a, b = pair
    expected = outcome(function, a, b)
    for left, right in ((Tensor(a), Tensor(b)), (a, Tensor(b)), (Tensor(a), b)):
        result = outcome(function, left, right)
        if isinstance(expected, type):
            assert issubclass(result, expected)
        else:
            same(result, expected)


@pytest.mark.parametrize("function", BINARY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("scalar", [2, 0.5, True])
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_a_python_number_never_widens(function, scalar, shape):
    tensor = Tensor(ramp(*shape) + np.float32(1))
    for result in (function(tensor, scalar), function(scalar, tensor)):
        assert result.dtype.name in ("float32", "bool")
    np.testing.assert_allclose(
        function(tensor, scalar).numpy(), function(tensor.numpy(), np.float32(scalar)), rtol=1e-6
    )
    np.testing.assert_allclose(
        function(scalar, tensor).numpy(), function(np.float32(scalar), tensor.numpy()), rtol=1e-6
    )


@pytest.mark.parametrize("function", IN_PLACE, ids=lambda f: f.__name__)
def test_in_place_operators_keep_the_memory(function):
    array = ramp(2, 3) + 1
    expected = function(array.copy(), 3)
    tensor = Tensor(array)
    result = function(tensor, Tensor(np.full(3, 3, "float32")))
    assert result is tensor
    assert tensor.array is array
    np.testing.assert_allclose(array, expected, rtol=1e-6)


def test_in_place_operators_never_change_the_dtype():
    tensor = Tensor(ramp(3, dtype="int64"))
    with pytest.raises(TypeError):
        tensor += 0.5


def test_an_array_may_be_the_target_of_an_in_place_operator():
    array = ramp(3)
    target = array
    target += Tensor(ramp(3))
    assert target is array
    np.testing.assert_array_equal(array, [0, 2, 4])


def test_unary_operators():
    array = ramp(2, 3) - 3
    same(-Tensor(array), -array)
    same(+Tensor(array), array)
    same(abs(Tensor(array)), abs(array))
    same(~Tensor(array > 0), ~(array > 0))


@pytest.mark.parametrize(
    ("left", "right"), [((2, 3), (3, 4)), ((3,), (3,)), ((5, 2, 3), (3, 4)), ((4, 3), (3,))]
)
def test_matmul(left, right):
    a, b = ramp(*left), ramp(*right)
    same(Tensor(a) @ Tensor(b), a @ b)
    same(Tensor(a).matmul(b), a @ b)
    same(a @ Tensor(b), a @ b)


def test_lists_take_the_dtype_of_the_tensor():
    same(np.add(Tensor(ramp(3)), [0.1, 0.2, 0.3]), ramp(3) + np.float32([0.1, 0.2, 0.3]))
    double = ramp(3, dtype="float64")
    same([0.1, 0.2, 0.3] - Tensor(double), np.array([0.1, 0.2, 0.3]) - double)
    same(Tensor(double) + [Tensor(np.float64(0.1))] * 3, double + 0.1)


def test_what_is_no_number_is_refused_or_unequal():
    tensor = Tensor(ramp(3))
    assert (tensor == None) is False  # noqa: E711 (the operator is what is tested)
    assert (tensor != "abc") is True
    for other in (None, "abc", 1j, object(), np.array(["a"])):
        with pytest.raises(TypeError, match="Received"):
            tensor + other


def test_shapes_that_do_not_broadcast_are_an_error():
    with pytest.raises(ValueError, match="broadcast"):
        Tensor(ramp(2)) + Tensor(ramp(3))


def test_a_tensor_has_no_hash():
    with pytest.raises(TypeError, match="unhashable"):
        hash(Tensor(ramp(3)))


# --- reductions and shapes -----------------------------------------------------------


@pytest.mark.parametrize("name", ["sum", "mean", "std", "var", "max", "min", "any", "all"])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(name, axis, keepdims):
    array = np.sin(ramp(2, 3, 4))
    expected = getattr(array, name)(axis=axis, keepdims=keepdims)
    same(getattr(Tensor(array), name)(axis, keepdims), expected)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_positions_of_extremes(name, axis, keepdims):
    array = np.sin(ramp(2, 3, 4))
    expected = getattr(array, name)(axis=axis, keepdims=keepdims)
    same(getattr(Tensor(array), name)(axis=axis, keepdims=keepdims), expected)


def test_reshape_is_a_view():
    array = ramp(2, 6)
    for result in (
        Tensor(array).reshape(3, 4),
        Tensor(array).reshape((3, -1)),
        Tensor(array).reshape([3, 4]),
    ):
        same(result, array.reshape(3, 4))
        assert np.shares_memory(result.array, array)
    same(Tensor(array).reshape(-1), array.reshape(-1))


@pytest.mark.parametrize("shape", [(5, 5), (-1, -1), (5, -1)])
def test_reshape_to_another_size(shape):
    with pytest.raises(ShapeError, match="Received"):
        Tensor(ramp(2, 6)).reshape(*shape)


def test_transpose_is_a_view():
    array = ramp(2, 3, 4)
    tensor = Tensor(array)
    same(tensor.T, array.T)
    same(tensor.transpose(), array.T)
    same(tensor.transpose(1, 0, 2), array.transpose(1, 0, 2))
    same(tensor.transpose((1, 0, 2)), array.transpose(1, 0, 2))
    assert np.shares_memory(tensor.T.array, array)


# --- elements ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        np.int64(1),
        slice(1, None),
        slice(None, None, -2),
        ...,
        None,
        (0, 1, 2),
        (..., 1),
        (slice(None), None, 0),
        [0, 2, 0],
        np.array([[0, 1], [2, 0]]),
        (np.array([0, 2]), slice(None), np.array([1, 3])),
        ramp(3, 2, 4) > 7,
        np.array([True, False, True]),
    ],
    ids=repr,
)
def test_indexing(key):
    array = ramp(3, 2, 4)
    same(Tensor(array)[key], array[key])
    changed = Tensor(array.copy())
    changed[key] = -1
    array[key] = -1
    same(changed, array)


def test_tensors_are_indices():
    array = ramp(3, 4)
    rows, mask = np.array([2, 0]), array > 5
    same(Tensor(array)[Tensor(rows)], array[rows])
    same(Tensor(array)[Tensor(rows), 1:], array[rows, 1:])
    same(Tensor(array)[Tensor(mask)], array[mask])
    same(Tensor(array)[Tensor(np.int64(1))], array[1])


def test_a_slice_is_a_view_and_can_be_written():
    array = ramp(3, 4)
    tensor = Tensor(array)
    part = tensor[1:, :2]
    assert np.shares_memory(part.array, array)
    part[0] = Tensor(np.array([7, 8], "float32"))
    tensor[0] = [1.5, 2.5, 3.5, 4.5]
    tensor[2] += 10
    np.testing.assert_array_equal(array, [[1.5, 2.5, 3.5, 4.5], [7, 8, 6, 7], [18, 19, 20, 21]])


def test_indices_out_of_range():
    with pytest.raises(IndexError):
        Tensor(ramp(3))[3]


def test_writing_into_read_only_memory():
    array = ramp(3)
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        Tensor(array)[0] = 1


def test_iteration_goes_over_the_first_axis():
    array = ramp(3, 2)
    parts = list(Tensor(array))
    assert len(parts) == len(Tensor(array)) == 3
    for part, expected in zip(parts, array, strict=True):
        same(part, expected)
    same(next(iter(Tensor(ramp(2)))), np.float32(0))
    assert Tensor(np.float32(3)).ndim == 0
    for function in (len, iter):
        with pytest.raises(TypeError, match=r"shape \(\)"):
            function(Tensor(np.float32(3)))


# --- Python's numbers ----------------------------------------------------------------


def test_one_element_is_a_number():
    assert Tensor(ramp(1, 1) + 2.5).item() == 2.5
    assert type(Tensor(np.int64(3)).item()) is int
    assert float(Tensor(np.float32(0.5))) == 0.5
    assert int(Tensor(np.float32(2.75))) == 2
    assert bool(Tensor(np.array([True])))
    assert not Tensor(np.float32(0))
    assert f"{Tensor(np.float32(0.5)):.3f}" == "0.500"
    assert [10, 20, 30][Tensor(np.int64(1))] == 20
    assert Tensor(ramp(2, 2)).tolist() == [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize("function", [float, int, bool, Tensor.item])
@pytest.mark.parametrize("shape", [(2,), (0,)])
def test_several_elements_are_no_number(function, shape):
    with pytest.raises(ShapeError, match=r"Received: shape \("):
        function(Tensor(ramp(*shape)))


@pytest.mark.parametrize("array", [np.float32(1), np.array([1]), np.array(True)], ids=repr)
def test_only_integers_of_no_axes_are_indices(array):
    with pytest.raises(TypeError, match="Received"):
        operator.index(Tensor(array))


# --- what it is ----------------------------------------------------------------------


def test_description():
    tensor = Tensor(ramp(2, 3))
    assert (tensor.shape, tensor.ndim, tensor.size, tensor.nbytes) == ((2, 3), 2, 6, 24)
    assert tensor.dtype == np.float32
    assert tensor.backend == "cpu"


def test_repr():
    assert repr(Tensor(ramp(2, 3))) == (
        "Tensor(shape=(2, 3), dtype=float32, backend='cpu',\n[[0., 1., 2.],\n [3., 4., 5.]])"
    )
    assert repr(Tensor(np.int64(4))) == "Tensor(shape=(), dtype=int64, backend='cpu',\n4)"
    assert repr(Tensor(ramp(1000))).endswith("\n[  0.,   1.,   2., ..., 997., 998., 999.])")
    assert len(repr(Tensor(ramp(32, 28, 28, 16)))) < 500
    assert f"{Tensor(ramp(2))}" == repr(Tensor(ramp(2)))


@pytest.mark.parametrize("name", ["backward", "grad", "requires_grad"])
def test_gradients_are_by_hand(name):
    with pytest.raises(AttributeError, match=r"by hand.*Layer\.forward"):
        getattr(Tensor(ramp(2)), name)


def test_unknown_attributes_get_a_suggestion():
    with pytest.raises(AttributeError, match="Did you mean 'shape'"):
        _ = Tensor(ramp(2)).shap


def test_kinds_of_arrays_with_rules_of_their_own_become_plain(tmp_path):
    matrix = np.arange(4.0).reshape(2, 2).view(np.matrix)
    same(Tensor(matrix) * Tensor(matrix), np.array([[0.0, 1.0], [4.0, 9.0]]))
    mapped = np.memmap(tmp_path / "data", "float32", "w+", shape=(3,))
    tensor = Tensor(mapped)
    assert type(tensor.array) is np.ndarray
    assert np.shares_memory(tensor.array, mapped)
    assert tensor.__array__(copy=False) is tensor.array


def test_the_backend_of_an_array_cannot_be_made_up():
    assert Tensor(ramp(2), "cpu").backend == "cpu"
    with pytest.raises(InvalidArgumentError, match=r"lies on 'cpu'.*Received: backend='cuda'"):
        Tensor(ramp(2), "cuda")


@pytest.mark.parametrize("value", [[1, 2], 3.0, None, np.array(["a"]), np.array([1j])], ids=repr)
def test_only_arrays_of_numbers_go_in(value):
    with pytest.raises(TypeError, match="Received"):
        Tensor(value)


# --- copies --------------------------------------------------------------------------


def test_numpy_is_the_same_memory():
    array = ramp(3)
    assert Tensor(array).numpy() is array
    assert Tensor(array).to("cpu").numpy() is array


def test_astype_copies_unless_told_otherwise():
    array = ramp(3)
    assert not np.shares_memory(Tensor(array).astype("float32").array, array)
    assert Tensor(array).astype("float32", copy=False).array is array
    same(Tensor(array).astype(np.int64), array.astype(np.int64))
    with pytest.raises(TypeError, match="Received: 'flot32'"):
        Tensor(array).astype("flot32")


@pytest.mark.parametrize("function", [Tensor.copy, copy.copy, copy.deepcopy])
def test_copies_have_their_own_memory(function):
    array = ramp(3)
    result = function(Tensor(array))
    same(result, array)
    assert not np.shares_memory(result.array, array)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol):
    array = ramp(2, 3).T
    same(pickle.loads(pickle.dumps(Tensor(array), protocol)), array)
