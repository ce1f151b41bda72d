"""Checked, atomic files and argument checks."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from avatar.checks import InputError, check
from avatar.tensorfile import atomic_path, read_tensors, write_bytes, write_tensors


def test_round_trip_keeps_values_dtypes_and_header(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.tensor([True, False])}
    write_tensors(path, tensors, format="test.file", version=2, header={"fps": 25.0, "x": ["y"]})
    found, header = read_tensors(
        path, format="test.file", version=2, required={"a": "N 4", "b": "M"}
    )
    assert header["fps"] == 25.0
    assert header["x"] == ["y"]
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize(
    ("required", "message"),
    [
        ({"z": "N"}, "lacks the tensor 'z'"),
        ({"a": "N 5"}, r"'a' must be \[N, 5\], found \[3, 4\]"),
        ({"a": "N 4", "b": "N"}, r"'b' must be \[N\]"),
    ],
)
def test_missing_and_misshapen_tensors_are_named(tmp_path, required, message):
    path = tmp_path / "a.safetensors"
    write_tensors(
        path,
        {"a": torch.zeros(3, 4), "b": torch.zeros(7)},
        format="test.file",
        version=1,
        header={},
    )
    with pytest.raises(InputError, match=message):
        read_tensors(path, format="test.file", version=1, required=required)


def test_another_format_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {}, format="test.other", version=1, header={})
    with pytest.raises(InputError, match=r"is not a test\.file file \(found: test\.other\)"):
        read_tensors(path, format="test.file", version=1)


def test_an_error_while_writing_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="on purpose"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("on purpose")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_written_files_have_an_ordinary_mode_and_the_umask_is_left_alone(tmp_path, monkeypatch):
    """A process has one umask: to read it is to set it, under the feet of all other threads."""
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was touched"))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda k: write_bytes(tmp_path / f"{k % 5}.bin", b"x" * k), range(40)))
    finally:
        monkeypatch.undo()
        assert os.umask(before) == 0o027
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{k}.bin" for k in range(5)]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_check_names_argument_expected_and_got():
    with pytest.raises(ValueError, match=r"means must have shape \[N, 3\]; got \[4, 2\]"):
        check("means", torch.zeros(4, 2), "N 3")
    with pytest.raises(
        ValueError, match=r"quats must have shape \[N, 4\] where N = 4; got \[5, 4\]"
    ):
        check("quats", torch.zeros(5, 4), "N 4", {"N": 4})
    assert check("T", torch.zeros(2, 7, 4, 4), "... 4 4") == {}
    with pytest.raises(TypeError, match="must be a tensor"):
        check("means", [1, 2, 3], "N 3")  # pyright: ignore[reportArgumentType]
