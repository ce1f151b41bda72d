"""What is in an .avatar file: its tensors, their compact forms, and versions that were before.

One safetensors file. A draft's size is that of its offset shapes, a byte a number (``compact.compand``)
with a float32 scale a shape and channel beside them, named ``NAME.scale``. Of each Gaussian's own, means
are float32, the rest half precision; of the binding, shares are int16 of 32767 and triangles int16.
The person, the networks and the poses are exact. The bytes depend on nothing but the avatar.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avatar.checks import InputError
from avatar.model.binding import HEAD, TORSO
from avatar.model.compact import from_unit, to_half, to_index, to_unit

AVATAR_FORMAT = "headsplat.avatar"
AVATAR_VERSION = 2

AVATAR_TENSORS = {
    "lattice": "V 3",
    "basis": "E V 3",
    "triangles": "T 3",
    "eyeballs": "2 3",
    "expression_range": "2 E",
    "rest.expression": "E",
    "rest.gaze": "2 2",
    "rest.T_world_head": "4 4",
    "rest.T_world_torso": "4 4",
    "camera.K": "3 3",
    "camera.T_cam_world": "4 4",
    "binding.triangle": "N",
    "binding.barycentric": "N 3",
    "binding.follow": "N",
    "binding.eye": "N",
    "binding.part": "N",
    "gaussians.means": "N 3",
    "gaussians.quats": "N 4",
    "gaussians.log_scales": "N 3",
    "gaussians.logit_opacities": "N",
    "gaussians.colours": "N 3",
    "gaussians.torso_logits": "N",
}
"""Every tensor that a .avatar file must have beside the deformer's, with its dims (equal names are equal
sizes)."""

_HALF = ("quats", "log_scales", "logit_opacities", "colours", "torso_logits")
_UNIT = ("binding.barycentric", "binding.follow")
_INDEX = ("binding.triangle", "triangles")

_FEATURES_1 = 62
"""Driving features in version 1: those of today without the torso's pose, which are the last six."""


def compact(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of ``AVATAR_TENSORS`` in the forms that files hold them in."""
    small = dict(tensors)
    for name in _HALF:
        small[f"gaussians.{name}"] = to_half(tensors[f"gaussians.{name}"])
    for name in _UNIT:
        small[name] = to_unit(tensors[name])
    for name in _INDEX:
        small[name] = to_index(tensors[name])
    return small


def expand(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return float32 and int64 tensors of a file's, compact or exact; the deformer's as they are."""
    large = dict(tensors)
    for name in AVATAR_TENSORS:
        value = from_unit(tensors[name]) if name in _UNIT else tensors[name]
        large[name] = value.float() if value.is_floating_point() else value.long()
    return large


def from_version_1(tensors: dict[str, Tensor], _: dict[str, Any]) -> dict[str, Tensor]:
    """Bring the tensors of a version 1 file up to date.

    Parts were not told apart, and the network did not see the torso's pose, the last six features:
    with weights of zero for them it answers as it did.
    """
    wider = dict(tensors)
    if (eye := tensors.get("binding.eye")) is not None:
        wider["binding.part"] = torch.full_like(eye, HEAD)
    for name, value in (("feature_mean", 0.0), ("feature_scale", 1.0), ("network.0.weight", 0.0)):
        old = tensors.get(f"deformer.{name}")
        if old is not None and old.shape[-1] == _FEATURES_1:
            added = old.new_full((*old.shape[:-1], 6), value)
            wider[f"deformer.{name}"] = torch.cat([old, added], -1)
    return wider


def deformer_of(header: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Read kind and settings of the deformer; files from before there were kinds have blendshapes.

    Raises:
        KeyError, TypeError, ValueError: the header is damaged.
    """
    section = header.get("deformer")
    if section is None:
        return "blendshapes", {k: header["counts"][k] for k in ("shapes", "hidden")}
    return str(section["kind"]), dict(section["settings"])


def check_indices(path: Path, tensors: Mapping[str, Tensor], remedy: str) -> None:
    """Raise InputError where indices point outside of what they index, or parts are not sorted."""
    for name, low, high in (
        ("triangles", 0, len(tensors["lattice"])),
        ("binding.triangle", 0, len(tensors["triangles"])),
        ("binding.eye", -1, 2),
        ("binding.part", HEAD, TORSO + 1),
    ):
        index = tensors[name]
        if index.numel() and not (low <= int(index.min()) and int(index.max()) < high):
            raise InputError(f"{path}: '{name}' must lie in {low}..{high - 1}. {remedy}")
    if (tensors["binding.part"].diff() < 0).any():
        raise InputError(f"{path}: 'binding.part' must be in ascending order. {remedy}")
