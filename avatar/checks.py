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
    bound = dict(sizes or {})
    dims = spec.split()
    shape = tuple(value.shape)
    batch = bool(dims) and dims[0] == "..."
    dims = dims[1:] if batch else dims
    tail = shape[len(shape) - len(dims) :] if len(dims) else ()
    fits = len(shape) >= len(dims) if batch else len(shape) == len(dims)
    if fits:
        for dim, size in zip(dims, tail, strict=True):
            expected = int(dim) if dim.isdigit() else bound.setdefault(dim, size)
            fits = fits and expected == size
    if not fits:
        known = ", ".join(f"{k} = {v}" for k, v in (sizes or {}).items())
        where = f" where {known}" if known else ""
        raise ValueError(
            f"{name} must have shape [{', '.join(spec.split())}]{where}; got {list(shape)}."
        )
    return bound
