"""The avatar that a path names, finished or not, and the capture that belongs to it."""

from __future__ import annotations

from pathlib import Path

import torch

from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.model.avatar import GAUSSIAN_PARAMETERS, Avatar
from avatar.model.binding import Binding
from avatar.train.checkpoint import load_newest
from avatar.train.run_folder import capture_of

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


def find_avatar(path: Path) -> tuple[Avatar, Path]:
    """Return the avatar that a path names, and the folder in which to look for its capture.

    A run that has no avatar yet gives that of its newest checkpoint.

    Args:
        path: a .avatar file, a run, or a folder that ``avatar create`` made.

    Raises:
        InputError: there is none, or it is damaged.
    """
    if not path.is_dir():
        return Avatar.load(path), path.parent
    for name in ("me.avatar", "avatar.avatar"):
        if (path / name).is_file():
            return Avatar.load(path / name), path
    for run in (path, path / "me.run"):
        if (run / "config.json").is_file() and (run / "start.avatar").is_file():
            return avatar_of_checkpoint(run)[0], run
    raise InputError(
        f"{path} is a folder without an avatar in it; expected a .avatar file, a run, or a folder that "
        "`avatar create` made (to look at, also a .capture folder)."
    )


def find_capture(home: Path, avatar: Avatar) -> tuple[Capture | None, str]:
    """Return the capture that belongs to an avatar, or None and the reason.

    Args:
        home: the folder that ``find_avatar`` returned. The run in it names its capture; else it is me.capture.
        avatar: made from it.

    Returns:
        The capture and an empty text; or None and a sentence, empty where nothing says that there is one.
    """
    try:
        if (home / "config.json").is_file():
            capture = capture_of(home)
        elif (home / "me.capture").is_dir():
            capture = Capture(home / "me.capture")
        else:
            return None, ""
    except InputError as error:
        return None, str(error)
    made_from = avatar.header.get("source_sha256")
    if made_from and made_from != capture.source_sha256:
        return None, (
            f"{capture.path} is of another clip than the avatar was made from, so it is left aside."
        )
    return capture, ""
