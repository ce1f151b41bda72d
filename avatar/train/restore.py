"""The avatar of a run that has not ended: read from its newest checkpoint, for looking at."""

from __future__ import annotations

from pathlib import Path

import torch

from avatar.checks import InputError
from avatar.model.avatar import GAUSSIAN_PARAMETERS, Avatar
from avatar.model.binding import Binding
from avatar.train.checkpoint import load_newest

_BINDING = ("triangle", "barycentric", "follow", "eye", "part")


def avatar_of_checkpoint(run: Path) -> tuple[Avatar, int]:
    """Return the avatar of a run's newest readable checkpoint, and the step it was written at.

    Raises:
        InputError: the run has no checkpoint, or the checkpoint or the run's start.avatar is damaged.
    """
    found = load_newest(run / "checkpoints")
    if found is None:
        raise InputError(
            f"{run} has neither an avatar nor a checkpoint yet: it was stopped before the first one. "
            "Run the same avatar train command again with --resume."
        )
    tensors, header = found
    avatar = Avatar.load(run / "start.avatar")
    try:
        for name in GAUSSIAN_PARAMETERS:
            setattr(avatar, name, torch.nn.Parameter(tensors[f"avatar.{name}"]))
        for name in avatar.deformer.gaussian_dims:
            avatar.deformer.replace(name, tensors[f"avatar.deformer.{name}"])
        avatar.set_binding(Binding(**{name: tensors[f"avatar.{name}"] for name in _BINDING}))
        avatar.load_state_dict(
            {n.removeprefix("avatar."): t for n, t in tensors.items() if n.startswith("avatar.")}
        )
        step = int(header["step"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{run}: its newest checkpoint does not fit its start.avatar ({str(error)[:200]}). "
            "Train again without --resume."
        ) from error
    avatar.header["steps"] = step
    return avatar.requires_grad_(False), step
