"""The model file: what goes in comes out, and every wrong file gets its own words."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gpuconv.errors import DTypeError, FileFormatError, InvalidArgumentError
from gpuconv.io import read_model_file, read_tensors, write_model_file

CONFIGURATION = {
    "name": "net",
    "layers": [{"filters": 8, "use_bias": True, "rate": 0.25}],
    "x": None,
}
DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
]


def _tensors() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    return {
        "conv2d/kernel": rng.standard_normal((3, 3, 2, 4)).astype(np.float32),
        "conv2d/bias": np.zeros(4, np.float32),
        "optimizer/step": np.array(7, np.int64),
        "empty": np.zeros((0, 5), np.float64),
    }


def _saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_model_file(path, _tensors(), CONFIGURATION)
    return path


def _with_header(path: Path, header: object) -> Path:
    text = header if isinstance(header, str) else json.dumps(header)
    save_file({"w": np.ones(3, np.float32)}, path, metadata={"gpuconv": text})
    return path


def test_round_trip(tmp_path: Path) -> None:
    configuration, tensors = read_model_file(_saved(tmp_path))
    assert configuration == CONFIGURATION
    assert tensors.keys() == _tensors().keys()
    for name, array in _tensors().items():
        assert tensors[name].dtype == array.dtype
        assert tensors[name].shape == array.shape
        np.testing.assert_array_equal(tensors[name], array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_both_byte_orders_and_any_strides(dtype: str, tmp_path: Path) -> None:
    plain = np.arange(24).reshape(4, 6).astype(dtype)
    big_endian = plain.astype(plain.dtype.newbyteorder(">"))
    read_only = plain.copy()
    read_only.flags.writeable = False
    given = {"plain": plain, "turned": plain.T[::2], "big": big_endian, "fixed": read_only}
    write_model_file(tmp_path / "m", given, {})
    _, tensors = read_model_file(tmp_path / "m")
    np.testing.assert_array_equal(tensors["turned"], plain.T[::2])
    for name in ("plain", "big", "fixed"):
        np.testing.assert_array_equal(tensors[name], plain)
        assert tensors[name].dtype == np.dtype(dtype)


def test_tensors_that_were_read_may_be_changed(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    _, tensors = read_model_file(path)
    tensors["conv2d/bias"] += 1
    np.testing.assert_array_equal(read_model_file(path)[1]["conv2d/bias"], np.zeros(4))


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first = _saved(tmp_path).read_bytes()
    assert _saved(tmp_path).read_bytes() == first


def test_other_programs_can_read_the_tensors(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    np.testing.assert_array_equal(
        load_file(path)["conv2d/kernel"], _tensors()["conv2d/kernel"], strict=True
    )
    with safe_open(path, framework="np") as file:
        assert list(file.metadata()) == ["gpuconv"]
        assert json.loads(file.metadata()["gpuconv"])["format"] == 1


def test_tuples_and_numpy_scalars_become_json(tmp_path: Path) -> None:
    given = {"size": (3, 3), "rate": np.float32(0.5), "count": np.int64(4), "flag": np.bool_(True)}
    write_model_file(tmp_path / "m", {}, given)
    configuration, tensors = read_model_file(tmp_path / "m")
    assert configuration == {"size": [3, 3], "rate": 0.5, "count": 4, "flag": True}
    assert tensors == {}


@pytest.mark.parametrize(
    ("configuration", "where"),
    [
        ({"optimizer": {"rate": float("nan")}}, r"configuration\.optimizer\.rate .*nan"),
        ({"a": [1, float("inf")]}, r"configuration\.a\[1\] .*inf"),
        ({"a": {1: "x"}}, r"configuration\.a .*\{1: 'x'\}"),
        ({"a": object()}, r"configuration\.a .*object"),
        ({"a": np.zeros(2)}, r"configuration\.a .*array"),
    ],
)
def test_a_configuration_that_is_no_strict_json_is_refused(
    configuration: dict[str, Any], where: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgumentError, match=where):
        write_model_file(tmp_path / "m", {}, configuration)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "array", [np.array(["a"]), np.array([None]), np.zeros(2, complex), [1.0, 2.0]]
)
def test_a_tensor_that_cannot_be_stored_is_refused(array: Any, tmp_path: Path) -> None:
    with pytest.raises(DTypeError, match="'w' must be a NumPy array of bool"):
        write_model_file(tmp_path / "m", {"w": array}, {})


@pytest.mark.parametrize("name", ["", "__metadata__", 3])
def test_a_tensor_needs_a_name(name: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="needs a name"):
        write_model_file(tmp_path / "m", {name: np.zeros(2)}, {})


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found nothing. Received: .*nowhere"):
        read_model_file(tmp_path / "nowhere")
    with pytest.raises(FileFormatError, match="found a folder"):
        read_model_file(tmp_path)


@pytest.mark.parametrize("kept", [0, 3, 8, 9, 60, -1, -40])
def test_a_truncated_file(kept: int, tmp_path: Path) -> None:
    path = _saved(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    words = "an empty file" if kept == 0 else "bytes" if 0 < kept < 9 else "truncated"
    with pytest.raises(FileFormatError, match=words):
        read_model_file(path)


def test_every_truncation_and_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "small"
    write_model_file(path, {"w": np.arange(3, dtype=np.float32)}, {"a": 1})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match="Received"):
            read_model_file(path)
    for place in range(len(whole) - 12, len(whole)):  # the tensor's own bytes
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(FileFormatError, match="does not match the checksum"):
            read_model_file(path)


def test_every_damaged_byte_of_the_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small"
    write_model_file(path, {"w": np.arange(3, dtype=np.float32)}, {"rate": 0.125, "name": "net"})
    whole = path.read_bytes()
    header = whole[:-12].rstrip(b" ")  # the padding before the tensors may be any white space
    for place in range(len(header)):
        for mask in (0xFF, 0x01):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
            with pytest.raises(FileFormatError, match="Received"):
                read_model_file(path)


def test_foreign_files_are_called_by_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"x")
    _expect(path, "a zip archive")
    path.write_bytes(pickle.dumps({"w": np.zeros(3)}))
    _expect(path, "a pickle")
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    _expect(path, "an HDF5 file")
    np.save(tmp_path / "a.npy", np.zeros(3))
    _expect(tmp_path / "a.npy", r"a NumPy \.npy file")
    path.write_text("epoch,loss\n0,2.3\n1,2.2\n")
    _expect(path, "23 bytes of something else")


def _expect(path: Path, words: str) -> None:
    for read in (read_model_file, read_tensors):
        with pytest.raises(FileFormatError, match=f"found {words}"):
            read(path)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "bomb"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FileFormatError):
        read_model_file(path)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_program_are_tensors_but_no_model(tmp_path: Path) -> None:
    path = tmp_path / "resnet.safetensors"
    save_file({"conv1.weight": np.ones((2, 3), np.float32)}, path, metadata={"format": "pt"})
    with pytest.raises(FileFormatError, match="1 tensors but no gpuconv metadata"):
        read_model_file(path)
    np.testing.assert_array_equal(read_tensors(path)["conv1.weight"], np.ones((2, 3)))


def test_a_type_that_numpy_lacks_is_named(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    path = tmp_path / "bf16"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(FileFormatError, match="'w' is stored as BF16"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"format": 2, "configuration": {}}, "newer version.*format 2"),
        ({"format": "1", "configuration": {}}, "says '1'"),
        ({"format": True, "configuration": {}}, "says True"),
        ({"format": 0, "configuration": {}}, "says 0"),
        ({"configuration": {}}, "says None"),
        ([1, 2], "says None"),
        ({"format": 1}, "no configuration"),
        ({"format": 1, "configuration": {}}, "checksum"),
        ('{"format": 1, "configuration": {"rate": NaN}}', "NaN is not JSON"),
        ("{", "not valid JSON"),
    ],
)
def test_wrong_metadata(header: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=words):
        read_model_file(_with_header(tmp_path / "m", header))


def test_a_failed_save_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.numpy

    path = _saved(tmp_path)
    before = path.read_bytes()

    def half(tensors: Any, file: Path, metadata: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", half)
    with pytest.raises(OSError, match="no space left"):
        write_model_file(path, _tensors(), {})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
