"""Argument checks with messages a user can act on, and the error that ends a command with exit code 1."""

from __future__ import annotations

from torch import Tensor


class InputError(Exception):
    """The input or the environment cannot do what was asked.

    The message is one sentence for the user: what was wrong, what was expected, what to do next.
    The command line prints it without a traceback and exits with code 1.
    """


def check(
    name: str, value: Tensor, spec: str, sizes: dict[str, int] | None = None
) -> dict[str, int]:
    """Raise unless ``value`` has the shape that ``spec`` names.

    Args:
        name: what to call the tensor in the message.
        value: the tensor.
        spec: dims parted by spaces: a number must match, a name binds (the same name must have the
            same size everywhere), a leading ``...`` admits any batch dims. ``"... 4 4"``, ``"N 3"``.
        sizes: sizes that names are already bound to; not changed.

    Returns:
        ``sizes`` with the names that this tensor bound.

    Raises:
        TypeError: not a tensor.
        ValueError: another shape.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor [{spec}]; got {type(value).__name__}.")
    bound = bind_shape(tuple(value.shape), spec, sizes)
    if bound is None:
        known = ", ".join(f"{k} = {v}" for k, v in (sizes or {}).items())
        where = f" where {known}" if known else ""
        raise ValueError(
            f"{name} must have shape [{', '.join(spec.split())}]{where}; got {list(value.shape)}."
        )
    return bound


def bind_shape(
    shape: tuple[int, ...], spec: str, sizes: dict[str, int] | None = None
) -> dict[str, int] | None:
    """Return ``sizes`` with the names that ``shape`` binds by ``spec``, or None where it does not fit."""
    bound = dict(sizes or {})
    dims = spec.split()
    if dims[:1] == ["..."]:
        dims = dims[1:]
        shape = shape[len(shape) - len(dims) :] if len(shape) >= len(dims) else ()
    if len(shape) != len(dims):
        return None
    for dim, size in zip(dims, shape, strict=True):
        if size != (int(dim) if dim.isdigit() else bound.setdefault(dim, size)):
            return None
    return bound
