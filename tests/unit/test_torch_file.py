"""Files of PyTorch, written by hand: what is read, and that nothing in them is ever run."""

from __future__ import annotations

import collections
import io
import pickle
import random
import struct
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from gpuconv.errors import FileFormatError
from gpuconv.io import read_torch_file

F32 = np.arange(24, dtype=np.float32)


class Op:
    """Opcodes of pickle's protocol 2, as bytes."""

    @staticmethod
    def text(word: str) -> bytes:
        data = word.encode()
        return b"X" + struct.pack("<I", len(data)) + data

    @staticmethod
    def number(n: int) -> bytes:
        if 0 <= n < 256:
            return b"K" + bytes([n])
        data = n.to_bytes(9, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data

    @staticmethod
    def integers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(Op.number(n) for n in values) + b"t"

    @staticmethod
    def name(module: str, name: str) -> bytes:
        return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def storage(kind: str, key: str, count: int) -> bytes:
    parts = Op.text("storage") + Op.name("torch", kind) + Op.text(key) + Op.text("cpu")
    return b"(" + parts + Op.number(count) + b"tQ"


def tensor(
    kind: str, key: str, count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> bytes:
    arguments = storage(kind, key, count) + Op.number(offset)
    arguments += Op.integers(size) + Op.integers(stride) + b"\x89"  # requires_grad: False
    arguments += Op.name("collections", "OrderedDict") + b")R"  # hooks
    return Op.name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def ordered_dict(entries: dict[str, bytes]) -> bytes:
    body = b"".join(Op.text(name) + value for name, value in entries.items())
    made = Op.name("collections", "OrderedDict") + b")R(" + body + b"u"
    return made + b"}" + Op.text("_metadata") + b"}sb"  # an attribute, as state_dicts have


def program(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def archive(
    path: Path,
    pickled: bytes,
    storages: dict[str, bytes] | None = None,
    root: str = "net/",
    compression: int = zipfile.ZIP_STORED,
    **others: bytes,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"{root}data.pkl", pickled)
        for key, data in (storages or {}).items():
            file.writestr(f"{root}data/{key}", data)
        for name, data in others.items():
            file.writestr(f"{root}{name}", data)
    return path


def one(path: Path, kind: str, data: bytes, count: int, *place: Any) -> np.ndarray[Any, Any]:
    archive(path, program(ordered_dict({"w": tensor(kind, "0", count, *place)})), {"0": data})
    found = read_torch_file(path)
    assert list(found) == ["w"]
    return found["w"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.pt"


def refused(path: Path, words: str) -> None:
    with pytest.raises(FileFormatError, match=rf"(?s)(?:{words}).*Received: .*{path.name}"):
        read_torch_file(path)


# --- what is read ---------------------------------------------------------------------------------


def test_tensors_come_in_the_order_of_the_file(path: Path) -> None:
    entries = {
        "z.weight": tensor("FloatStorage", "0", 24, 0, (2, 3, 4), (12, 4, 1)),
        "a.bias": tensor("FloatStorage", "1", 2, 0, (2,), (1,)),
        "z.num_batches_tracked": tensor("LongStorage", "2", 1, 0, (), ()),
    }
    storages = {
        "0": F32.tobytes(),
        "1": F32[:2].tobytes(),
        "2": np.int64(7).tobytes(),
    }
    archive(path, program(ordered_dict(entries)), storages, byteorder=b"little", version=b"3\n")
    found = read_torch_file(path)
    assert list(found) == list(entries)
    np.testing.assert_array_equal(found["z.weight"], F32.reshape(2, 3, 4), strict=True)
    np.testing.assert_array_equal(found["a.bias"], F32[:2], strict=True)
    assert found["z.num_batches_tracked"].shape == ()
    assert found["z.num_batches_tracked"] == 7
    found["a.bias"][0] = 5  # may be changed


def test_strides_and_offsets(path: Path) -> None:
    turned = one(path, "FloatStorage", F32.tobytes(), 24, 2, (4, 5), (1, 4))
    np.testing.assert_array_equal(turned, F32[2:22].reshape(5, 4).T)
    last = one(path, "FloatStorage", F32.tobytes(), 24, 23, (1, 1), (99999999, 7))
    np.testing.assert_array_equal(last, [[23.0]])
    assert one(path, "FloatStorage", b"", 0, 0, (0, 3), (3, 1)).shape == (0, 3)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", "float64"),
        ("HalfStorage", "float16"),
        ("LongStorage", "int64"),
        ("IntStorage", "int32"),
        ("ShortStorage", "int16"),
        ("CharStorage", "int8"),
        ("ByteStorage", "uint8"),
        ("BoolStorage", "bool"),
    ],
)
def test_types(kind: str, dtype: str, path: Path) -> None:
    values = np.array([1, 0, 1, 100]).astype(dtype)
    found = one(path, kind, values.tobytes(), 4, 0, (4,), (1,))
    np.testing.assert_array_equal(found, values, strict=True)


def test_bfloat16_becomes_float32(path: Path) -> None:
    bits = np.array([0x3F80, 0xC000, 0x3E20, 0x7F80], "<u2")  # 1, -2, 0.15625, infinity
    found = one(path, "BFloat16Storage", bits.tobytes(), 4, 0, (2, 2), (2, 1))
    expected = np.array([[1, -2], [0.15625, np.inf]], np.float32)
    np.testing.assert_array_equal(found, expected, strict=True)


def test_bfloat16_in_safetensors(tmp_path: Path) -> None:
    header = (
        b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},'
        b'"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
    )
    data = np.array([0x3F80, 0xC000], "<u2").tobytes() + np.float32(3).tobytes()
    path = tmp_path / "net.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    found = read_torch_file(path)
    np.testing.assert_array_equal(found["w"], np.array([1, -2], np.float32), strict=True)
    np.testing.assert_array_equal(found["b"], np.array([3], np.float32), strict=True)


def test_big_endian_files(path: Path) -> None:
    entries = {"w": tensor("FloatStorage", "0", 24, 0, (24,), (1,))}
    data = F32.astype(">f4").tobytes()
    archive(path, program(ordered_dict(entries)), {"0": data}, byteorder=b"big")
    np.testing.assert_array_equal(read_torch_file(path)["w"], F32, strict=True)


def test_a_storage_that_two_tensors_share_is_read_once(path: Path) -> None:
    entries = {
        "a": tensor("FloatStorage", "0", 24, 0, (24,), (1,)),
        "b": tensor("FloatStorage", "0", 24, 4, (2,), (1,)),
    }
    archive(path, program(ordered_dict(entries)), {"0": F32.tobytes()})
    found = read_torch_file(path)
    assert np.shares_memory(found["a"], found["b"])


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "anything"])
def test_a_state_dict_inside_a_checkpoint(key: str, path: Path) -> None:
    inner = ordered_dict({"w": tensor("FloatStorage", "0", 24, 0, (24,), (1,))})
    whole = b"}(" + Op.text("epoch") + Op.number(3) + Op.text(key) + inner
    whole += Op.text("rates") + b"](G" + struct.pack(">d", 0.5) + b"Ne"
    whole += Op.text("done") + b"\x88u"
    archive(path, program(whole), {"0": F32.tobytes()})
    np.testing.assert_array_equal(read_torch_file(path)["w"], F32)


def test_a_parameter_is_its_tensor(path: Path) -> None:
    inner = tensor("FloatStorage", "0", 24, 0, (24,), (1,))
    wrapped = Op.name("torch._utils", "_rebuild_parameter") + b"(" + inner + b"\x88"
    wrapped += Op.name("collections", "OrderedDict") + b")RtR"
    archive(path, program(ordered_dict({"w": wrapped})), {"0": F32.tobytes()})
    np.testing.assert_array_equal(read_torch_file(path)["w"], F32)


class Storage:
    pass


class View:
    def __reduce__(self) -> tuple[Any, ...]:
        hooks: Any = collections.OrderedDict()
        return _rebuild_tensor_v2, (Storage(), 0, (4, 6), (6, 1), False, hooks)


def _rebuild_tensor_v2(*arguments: Any) -> None: ...


class FloatStorage: ...


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return ("storage", FloatStorage, "0", "cpu", 24) if isinstance(obj, Storage) else None


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(protocol: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own pickler writes the state_dict here."""
    for module, entry in (("torch._utils", _rebuild_tensor_v2), ("torch", FloatStorage)):
        fake = types.ModuleType(module)
        setattr(fake, entry.__name__, entry)
        monkeypatch.setitem(sys.modules, module, fake)
        monkeypatch.setattr(entry, "__module__", module)
    state = collections.OrderedDict({"w": View(), "v": View()})
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(state)
    archive(path, buffer.getvalue(), {"0": F32.tobytes()})
    found = read_torch_file(path)
    assert list(found) == ["w", "v"]
    np.testing.assert_array_equal(found["v"], F32.reshape(4, 6), strict=True)


def test_safetensors_files_whatever_they_are_called(path: Path) -> None:
    save_file({"w": F32}, path)
    np.testing.assert_array_equal(read_torch_file(str(path))["w"], F32, strict=True)


# --- what is refused ------------------------------------------------------------------------------


class Hostile:
    """Pickled by Python itself, so that unpickling it would call what it names."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["system", "exec", "touch"])
def test_code_is_refused_and_not_run(name: str, protocol: int, path: Path, tmp_path: Path) -> None:
    import os

    marker = tmp_path / "ran"
    bomb = {
        "system": Hostile(os.system, f"touch {marker}"),
        "exec": Hostile(exec, f"open({str(marker)!r}, 'w').close()"),
        "touch": Hostile(Path.touch, marker),
    }[name]
    data = pickle.dumps({"w": bomb}, protocol)
    archive(path, data)
    refused(path, "wants to run|its pickle uses")
    assert not marker.exists()
    pickle.loads(data)  # it would have run
    assert marker.exists()


def test_what_it_wanted_to_run_is_named(path: Path) -> None:
    archive(path, program(Op.name("os", "system") + Op.text("true") + b"\x85R"))
    refused(path, r"wants to run 'os\.system'")
    archive(path, program(Op.name("torch.nn.modules.linear", "Linear") + b")R"))
    refused(path, r"wants to run 'torch\.nn\.modules\.linear\.Linear'")
    inner = Op.text("builtins") + Op.text("eval") + b"\x93"  # STACK_GLOBAL
    archive(path, b"\x80\x04" + inner + b".")
    refused(path, r"wants to run 'builtins\.eval'")


@pytest.mark.parametrize(
    "value",
    [
        b"(" + Op.text("true") + b"ios\nsystem\n",  # INST
        b"(" + Op.name("os", "system") + Op.text("true") + b"o",  # OBJ
        Op.name("collections", "OrderedDict") + b")\x81",  # NEWOBJ
        b"\x82\x01",  # EXT1
        b"\x8f",  # EMPTY_SET
        b"\x97",  # NEXT_BUFFER
        b"Pos\n",  # PERSID
    ],
)
def test_opcodes_that_plain_data_does_not_need(value: bytes, path: Path) -> None:
    archive(path, program(value))
    refused(path, "wants to run|its pickle uses")


def test_known_names_do_nothing_else_than_they_should(path: Path) -> None:
    rebuild = Op.name("torch._utils", "_rebuild_tensor_v2")
    for value in (
        rebuild + b")R",  # too few arguments
        rebuild + b"}" + Op.text("__defaults__") + b")sb",  # an attribute of the function
        Op.name("torch", "FloatStorage") + b")R",  # a class that is not to be called
        Op.name("collections", "OrderedDict") + Op.integers((1, 2)) + b"R",
        b"}))s",  # a key that is a tuple
        b"K\x01)R",  # a call of a number
        b"K\x01K\x02a",  # an entry of a number
        b"h\x05",  # a memo that was never set
        b")" + b"\x85" * 100_000,  # a deep nest
        b"}(" + b")" + b"\x85" * 100_000 + b"K\x01u",
        b")" + b"\x85" * 100_000 + b"Q",
        b"0",
        b"",
    ):
        archive(path, program(value))
        refused(path, "its pickle|names and tensors|not a storage")


@pytest.mark.parametrize(
    ("count", "offset", "size", "stride", "words"),
    [
        (24, 0, (25,), (1,), "repeats or overlaps"),
        (24, 0, (5, 5), (1, 1), "repeats or overlaps"),
        (24, 0, (1000000, 1000000), (0, 0), "repeats or overlaps"),
        (24, 1, (24,), (1,), "reaches to place 24 of 24"),
        (24, 0, (2, 2), (1, 23), "reaches to place 24 of 24"),
        (24, 24, (1,), (1,), "reaches to place"),
        (24, 2**70, (1,), (1,), "reaches to place"),
        (24, -1, (1,), (1,), "impossible"),
        (24, 0, (-1,), (1,), "impossible"),
        (24, 4, (2,), (-4,), "impossible"),
        (24, 0, (2, 2), (1,), "impossible"),
        (24, 0, (1,) * 33, (1,) * 33, "impossible"),
        (25, 0, (1,), (1,), "should hold 25 numbers and holds 24"),
        (2**62, 0, (1,), (1,), "holds 24"),
    ],
)
def test_tensors_that_leave_their_storage(
    count: int, offset: int, size: Any, stride: Any, words: str, path: Path
) -> None:
    entries = {"w": tensor("FloatStorage", "0", count, offset, size, stride)}
    archive(path, program(ordered_dict(entries)), {"0": F32.tobytes()})
    refused(path, words)


def test_a_missing_storage_and_one_of_half_a_number(path: Path) -> None:
    entries = {"w": tensor("FloatStorage", "0", 24, 0, (24,), (1,))}
    archive(path, program(ordered_dict(entries)))
    refused(path, "storage '0' is missing")
    archive(path, program(ordered_dict(entries)), {"0": F32.tobytes()[:-1]})
    refused(path, "whole numbers")
    path.unlink()
    entries = {"w": tensor("ComplexFloatStorage", "0", 1, 0, (1,), (1,))}
    archive(path, program(ordered_dict(entries)), {"0": bytes(8)})
    refused(path, r"torch\.ComplexFloatStorage")


def test_a_compressed_archive_is_no_bomb(path: Path) -> None:
    zeros = bytes(1 << 20)
    entries = {"w": tensor("FloatStorage", "0", 1 << 18, 0, (1 << 18,), (1,))}
    packed = program(ordered_dict(entries))
    archive(path, packed, {"0": zeros}, compression=zipfile.ZIP_DEFLATED)
    refused(path, "compressed")


def test_other_files_are_called_by_name(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03.")
    refused(path, "before version 1.6")
    path.write_bytes(pickle.dumps({"w": F32}))
    refused(path, "a pickle")
    path.write_bytes(b"")
    refused(path, "an empty file")
    np.savez(path.with_suffix(".npz"), F32)
    refused(path.with_suffix(".npz"), r"without a data\.pkl")
    archive(path, program(b"}"), **{"constants.pkl": b"."})
    refused(path, "TorchScript")
    archive(path, program(b"]"))
    refused(path, "a list")
    archive(path, program(b"}"))
    refused(path, "a dict")
    with pytest.raises(FileNotFoundError, match="found nothing"):
        read_torch_file(tmp_path / "nowhere.pt")
    with pytest.raises(FileFormatError, match="a folder"):
        read_torch_file(tmp_path)


def test_two_state_dicts_are_not_guessed(path: Path) -> None:
    inner = ordered_dict({"w": tensor("FloatStorage", "0", 24, 0, (24,), (1,))})
    archive(
        path,
        program(b"}(" + Op.text("ema") + inner + Op.text("raw") + inner + b"u"),
        {"0": F32.tobytes()},
    )
    refused(path, "ema, raw, of which several could be")


def small(path: Path) -> bytes:
    entries = {
        "w": tensor("FloatStorage", "0", 24, 0, (4, 6), (6, 1)),
        "b": tensor("HalfStorage", "1", 4, 0, (4,), (1,)),
    }
    storages = {"0": F32.tobytes(), "1": np.ones(4, np.float16).tobytes()}
    return archive(path, program(ordered_dict(entries)), storages).read_bytes()


def test_every_truncation_is_noticed(path: Path) -> None:
    whole = small(path)
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match="Received"):
            read_torch_file(path)


def test_a_damaged_byte_never_does_more_than_raise(path: Path) -> None:
    whole = small(path)
    expected = read_torch_file(path)
    rng = random.Random(4)
    for place in range(len(whole)):
        wrong = whole[place] ^ rng.randrange(1, 256)
        path.write_bytes(whole[:place] + bytes([wrong]) + whole[place + 1 :])
        try:
            found = read_torch_file(path)
        except FileFormatError:
            continue
        for name in found:  # a byte that means nothing, such as a date
            np.testing.assert_array_equal(found[name], expected[name])


def test_random_pickles_only_raise(path: Path) -> None:
    """The checksum of the archive is right here, so the reader of pickles sees the damage."""
    rng = random.Random(5)
    entries = {"w": tensor("FloatStorage", "0", 24, 0, (4, 6), (6, 1))}
    good = program(ordered_dict(entries))
    read = 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        archive(path, bytes(data), {"0": F32.tobytes()})
        try:
            found = read_torch_file(path)
        except FileFormatError:
            continue
        read += 1
        assert all(array.size <= 24 for array in found.values())
    assert read > 0
