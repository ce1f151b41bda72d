"""Read the one legacy pickle this program meets, without running anything that it says.

FLAME is published as a Python 2 pickle of a dictionary of arrays, some of them wrapped in classes of
the packages chumpy and scipy. A pickle is a program: it may name any function and have it called. Here
every name it may use stands for a shell that only keeps what it is given; neither numpy, scipy nor
chumpy is called. Any other name is refused, with the name in the sentence.

Only the FLAME importer uses this.
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from avatar.checks import InputError

LARGEST_BYTES = 2 << 30
"""No published FLAME file is a tenth as large."""
MOST_DENSE = 10_000_000
"""Numbers of a sparse matrix written out; FLAME's one has 25 thousand."""
_DTYPE = re.compile(r"[fiub][1248]")
REMEDY = "Give the file as FLAME's site serves it (generic_model.pkl, flame2023.pkl), or its .npz."


class Refused(Exception):
    """The pickle asks for something that is not an array."""


class _Shell:
    """Something a pickle may build: keeps its arguments, does nothing."""

    # Of the class, as pickles may leave __init__ out.
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        if self.state is not None:
            raise Refused("an object that is filled twice")
        self.state = state


class _Array(_Shell):
    """``numpy.ndarray``; state: (version, shape, dtype, in Fortran's order, bytes)."""


class _Dtype(_Shell):
    """``numpy.dtype``; argument: the kind and size; state: (version, byte order, ...)."""


class _Scalar(_Shell):
    """A numpy scalar; arguments: dtype and bytes."""


class _Csc(_Shell):
    """``scipy.sparse.csc_matrix``; state: a dictionary with data, indices, indptr, _shape."""


class _Csr(_Shell):
    """``scipy.sparse.csr_matrix``."""


class _Chumpy(_Shell):
    """Any class of chumpy; state: a dictionary whose ``x`` is the array."""


class _Base(_Shell):
    """``object``, which old pickles name as the base of what they build."""


class _Function:
    """One of the functions that pickles of arrays call; ``kind`` says which."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, *arguments: Any) -> Any:
        if self.kind == "array":  # numpy's _reconstruct(type, shape, kind)
            return _Array()
        if self.kind == "empty" and not arguments:  # how protocol 2 spells no bytes
            return b""
        if self.kind == "text" and len(arguments) == 2 and isinstance(arguments[0], str):
            return arguments[0].encode("latin1")  # how protocol 2 spells bytes
        if (
            self.kind == "object" and len(arguments) == 3
        ):  # copyreg's _reconstructor(type, base, state)
            made = arguments[0]
            if isinstance(made, type) and issubclass(made, _Shell) and arguments[1] is _Base:
                return made()
        raise Refused("a call with arguments that no array needs")

    def __setstate__(self, state: Any) -> None:
        raise Refused("a function that is filled like an object")


_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NAMES: dict[tuple[str, str], type[_Shell] | str] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{(module, "_reconstruct"): "array" for module in _NUMPY},
    **{(module, "scalar"): _Scalar for module in _NUMPY},
    ("copy_reg", "_reconstructor"): "object",
    ("copyreg", "_reconstructor"): "object",
    ("__builtin__", "object"): _Base,
    ("builtins", "object"): _Base,
    ("_codecs", "encode"): "text",
    ("__builtin__", "bytes"): "empty",
    ("builtins", "bytes"): "empty",
    **{(f"scipy.sparse{part}", "csc_matrix"): _Csc for part in ("", ".csc", "._csc")},
    **{(f"scipy.sparse{part}", "csr_matrix"): _Csr for part in ("", ".csr", "._csr")},
}


# The unpickler written in Python: the one in C makes room for whatever sizes a file claims.
class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined, attr-defined]
    def _unasked(self) -> None:
        raise Refused("a buffer of protocol 5")

    # The one opcode for which this unpickler makes room before it reads; no array needs it.
    dispatch = pickle._Unpickler.dispatch | {  # type: ignore[name-defined, attr-defined]
        pickle.BYTEARRAY8[0]: _unasked
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return the shell that a name stands for; raise for all others."""
        known = _NAMES.get((module, name))
        if known is None and re.fullmatch(r"chumpy(\.\w+)*", module) and re.fullmatch(r"\w+", name):
            known = _Chumpy
        if known is None:
            raise Refused(f"{module}.{name}")
        return _Function(known) if isinstance(known, str) else known


def read_arrays(path: Path, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read named arrays out of a pickled dictionary.

    Args:
        path: the pickle.
        wanted: keys; sparse matrices come back dense.

    Returns:
        Key to array, for those of ``wanted`` that are there.

    Raises:
        InputError: not a pickle of a dictionary, or one with anything but arrays in it, named.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise InputError(f"{path} is larger than {LARGEST_BYTES >> 30} GiB. {REMEDY}")
        loaded = _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Refused as error:
        raise InputError(
            f"{path} holds {error}, which is no array: a pickle can run programs, so nothing in it was "
            f"called and nothing was read. {REMEDY}"
        ) from None
    except InputError:
        raise
    except Exception as error:  # a damaged pickle fails in a hundred ways; none has run anything
        detail = f"{type(error).__name__}: {error}"[:120]
        raise InputError(f"{path} is damaged or is not a pickle ({detail}). {REMEDY}") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not named arrays. {REMEDY}")
    found = {}
    for key in wanted:
        if key in loaded:
            try:
                found[key] = _array(loaded[key])
            except Exception as error:
                detail = f"{type(error).__name__}: {error}"[:120]
                raise InputError(f"{path}: '{key}' is not an array ({detail}). {REMEDY}") from error
    return found


def _array(value: Any, depth: int = 0) -> np.ndarray:
    """Turn a shell into the array that it describes."""
    if depth > 3:
        raise ValueError("wrapped too deeply")
    if isinstance(value, _Array):
        _, shape, dtype, fortran, raw = value.state
        kind = _dtype(dtype)
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(content, bytes) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("its content is not numbers")
        flat = np.frombuffer(content, kind) if content else np.zeros(0, kind)
        return flat.reshape(tuple(shape), order="F" if fortran else "C")
    if isinstance(value, _Csc | _Csr):
        return _dense(value, depth)
    if isinstance(value, _Chumpy):
        return _array(value.state["x"], depth + 1)
    raise ValueError(f"it is a {type(value).__name__.strip('_').lower()}")


def _dtype(shell: Any) -> np.dtype:
    kind = shell.arguments[0] if isinstance(shell, _Dtype) else None
    # No str() of anything else: a short pickle can nest tuples whose text fills the memory.
    if not isinstance(kind, str) or not _DTYPE.fullmatch(kind):
        raise ValueError("its kind is not numbers")
    order = shell.state[1] if shell.state is not None else "="
    return np.dtype(kind).newbyteorder(order if order in ("<", ">", "|") else "=")


def _dense(shell: _Csc | _Csr, depth: int) -> np.ndarray:
    """Write out a sparse matrix."""
    state = shell.state
    rows, columns = (n for n in state.get("_shape", state.get("shape")) if type(n) is int)
    data, indices, starts = (_array(state[k], depth + 1) for k in ("data", "indices", "indptr"))
    major = columns if isinstance(shell, _Csc) else rows
    counts = np.diff(starts.astype(np.int64))
    fits = min(rows, columns) > 0 and rows * columns <= MOST_DENSE and len(counts) == major
    # Counts are added up before they are written out: few bytes can claim any number of rows.
    if not fits or counts.min() < 0 or not counts.sum() == len(indices) == len(data):
        raise ValueError("its shape does not fit its content")
    lines = np.repeat(np.arange(major), counts)
    where = (indices, lines) if isinstance(shell, _Csc) else (lines, indices)
    dense = np.zeros((rows, columns))
    np.add.at(dense, where, data)
    return dense
