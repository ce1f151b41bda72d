"""An avatar, its clips and its facts as the bytes that a web page reads; docs/web.md has the layout.

Offsets stay the bytes that .avatar files hold them in; of the rest means, networks and the rig are
float32, what pictures do not show more of half precision. All of it is packed with gzip, which every
current browser undoes by itself.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avatar.checks import InputError, check
from avatar.export.web_sound import WebSound, encode_sound
from avatar.model.avatar import LARGEST_M, Avatar
from avatar.model.compact import compand, to_half, to_unit
from avatar.model.deform import CHANNELS, INPUT_LIMIT
from avatar.model.deformers.blendshapes import BlendshapeDeformer
from avatar.model.stretch import MOST
from avatar.model.views import BOTTOM_M, MARGIN_M, NARROWEST_M, SHORTEST_M, TOP_M
from avatar.rig.arkit import ARKIT_GROUPS
from avatar.rig.arkit_basis import GAZE_SIDE_RAD, GAZE_UP_RAD
from avatar.rotations import matrix_to_quat
from avatar.types import HeadState

MAGIC = b"HSPLATWB"
VERSION = 1

KINDS = ("branches", "blendshapes")
"""Deformers that a page can pose: those whose offsets are linear in a few weights."""
MOST_SHAPES = 256
"""Shapes in all: their weights lie in a uniform block of 16 KiB, which every browser has."""
MOST_GAUSSIANS = 1_000_000
"""A page with more would not open on a phone."""

LOOK_IN_FILES = (0.60, 0.52)
"""Yaw and pitch of an eye whose eyeLook coefficient is 1 in recorded files: the page's copy of
avatar.drive.motion.GAZE_AT_FULL_LOOK, whose reason stands there; a test compares the two."""

FACTS = {
    "who": "Shows",
    "consent": "Consent",
    "created": "Created",
    "source_sha256": "Source clip (SHA-256)",
    "headsplat": "Made with headsplat",
    "steps": "Training steps",
}
"""Header field to what the page's panel calls it."""


@dataclass(frozen=True)
class PageClip:
    """A motion that a page can play."""

    name: str
    """What the page calls it."""
    states: HeadState
    """A batch of states."""
    fps: float
    """States a second."""
    audio: Path | None = None
    """A sound file or a clip with sound; None for silence."""
    audio_start_s: float = 0.0
    """Where in ``audio`` the first state lies, seconds."""


def encode(
    avatar: Avatar,
    clips: Sequence[PageClip] = (),
    *,
    title: str = "",
    facts: Mapping[str, str] | None = None,
) -> bytes:
    """Return the packed bytes of an avatar for web pages; equal inputs give equal bytes.

    Args:
        avatar: the avatar; its deformer must be one of ``KINDS``.
        clips: motions that travel with it.
        title: what the page is called.
        facts: label to text, shown in the page's panel behind those of the avatar's header.

    Raises:
        InputError: a deformer of another kind or with too many shapes, too many Gaussians, or a clip's
            sound that cannot be read.
        ValueError: a clip's states are not a batch of this avatar's.
    """
    deformer = avatar.deformer
    if not isinstance(deformer, BlendshapeDeformer) or deformer.kind not in KINDS:
        raise InputError(
            f"A web page cannot pose an avatar whose deformer is '{deformer.kind}', only "
            f"{' and '.join(KINDS)}. Train it again with --deformer branches, or export a video."
        )
    shapes = sum(branch.shapes for branch in deformer.branches)
    if shapes > MOST_SHAPES:
        raise InputError(
            f"A web page holds at most {MOST_SHAPES} offset shapes, and this avatar has {shapes}. "
            "Train it with fewer."
        )
    if not 0 < len(avatar) <= MOST_GAUSSIANS:
        raise InputError(
            f"A web page shows 1 to {MOST_GAUSSIANS:,} Gaussians, and this avatar has {len(avatar):,}. "
            "Train it with another preset."
        )
    arrays = _avatar_arrays(avatar)
    branches = []
    for index, branch in enumerate(deformer.branches):
        offsets, scale = compand(deformer.shapes_of(branch).detach())
        arrays[f"branch{index}.offsets"] = offsets.transpose(1, 2)
        arrays[f"branch{index}.scale"] = scale * deformer.unit
        network = getattr(deformer, f"{branch.name}network")
        layers = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
        for number, layer in enumerate(layers):
            arrays[f"branch{index}.weight{number}"] = layer.weight
            arrays[f"branch{index}.bias{number}"] = layer.bias
        branches.append(
            {
                "first": branch.first,
                "count": branch.count,
                "shapes": branch.shapes,
                "sees": None if branch.sees is None else list(branch.sees),
                "layers": len(layers),
            }
        )
    assert offsets.shape[2] == CHANNELS
    listed = []
    for index, clip in enumerate(clips):
        made, sound = _clip_arrays(clip, avatar, f"clip{index}")
        arrays |= made
        listed.append(
            {
                "name": clip.name,
                "fps": float(clip.fps),
                "frames": len(clip.states),
                "mime": None if sound is None else sound.mime,
            }
        )
    header = _header(avatar) | {
        "title": title,
        "facts": _facts(avatar, facts or {}),
        "branches": branches,
        "clips": listed,
    }
    return gzip.compress(_packed(header, arrays), compresslevel=9, mtime=0)


def _avatar_arrays(avatar: Avatar) -> dict[str, Tensor]:
    arrays = {
        name: to_half(getattr(avatar, name))
        for name in ("quats", "log_scales", "logit_opacities", "colours", "torso_logits")
    }
    for name, index in (("triangles", avatar.triangles), ("triangle", avatar.triangle)):
        arrays[name] = _indices(name, index)
    return arrays | {
        "means": avatar.means,
        "lattice": avatar.lattice,
        "basis": avatar.basis,
        "eyeballs": avatar.eyeballs,
        "low": avatar.expression_low,
        "high": avatar.expression_high,
        "rest.expression": avatar.rest.expression,
        "barycentric": to_unit(avatar.barycentric),
        "follow": to_unit(avatar.follow),
        "eye": avatar.eye.to(torch.int8),
        "feature_mean": avatar.deformer.feature_mean,
        "feature_scale": avatar.deformer.feature_scale,
    }


def _indices(name: str, index: Tensor) -> Tensor:
    """Return indices as uint16, through int32 that every torch can convert to numpy."""
    if index.numel() and int(index.max()) > 65535:
        raise InputError(
            f"A web page's rig has at most 65536 entries, and '{name}' of this avatar points beyond. "
            "Make the avatar with the default rig."
        )
    return torch.from_numpy(index.detach().cpu().numpy().astype(np.uint16))


def _clip_arrays(
    clip: PageClip, avatar: Avatar, name: str
) -> tuple[dict[str, Tensor], WebSound | None]:
    states = clip.states
    check("expression", states.expression, f"F {len(avatar.expression_names)}")
    if not 0 < clip.fps <= 1000:
        raise ValueError(f"fps of the clip '{clip.name}' must lie in (0, 1000]; got {clip.fps}.")
    arrays = {
        f"{name}.expression": states.expression.half(),
        f"{name}.gaze": states.gaze.reshape(len(states), 4).float(),
    }
    for frame in ("head", "torso"):
        T = getattr(states, f"T_world_{frame}")
        arrays[f"{name}.{frame}"] = torch.cat(
            [matrix_to_quat(T[:, :3, :3]), T[:, :3, 3]], 1
        ).float()
    sound = None
    if clip.audio is not None:
        sound = encode_sound(clip.audio, clip.audio_start_s, len(states) / clip.fps)
        arrays[f"{name}.audio"] = torch.frombuffer(bytearray(sound.content), dtype=torch.uint8)
    return arrays, sound


def _header(avatar: Avatar) -> dict[str, Any]:
    filmed, rest = avatar.camera, avatar.rest
    K, T = filmed.K.double(), filmed.T_cam_world.double()
    # As avatar.model.views.front_camera: what it computes once, and the page for every canvas.
    centre = T[:3, :3] @ rest.T_world_head[:3, 3].double() + T[:3, 3]
    distance, depth = float(centre.norm()), float(centre[2])
    row = float(K[1, 1] * centre[1] / depth + K[1, 2])
    metres = depth / float(K[1, 1])
    bottom = max(BOTTOM_M, (row - filmed.height) * metres + MARGIN_M)
    return {
        "count": len(avatar),
        "names": list(avatar.expression_names),
        "groups": [[group, list(names)] for group, names in ARKIT_GROUPS.items()],
        "fps": avatar.fps,
        "largest": LARGEST_M,
        "input_limit": INPUT_LIMIT,
        "most_growth": MOST,
        "look": [GAZE_SIDE_RAD, GAZE_UP_RAD],
        "look_in_files": list(LOOK_IN_FILES),
        "view": {
            "distance": distance,
            "shown": max(SHORTEST_M, min(TOP_M, row * metres) - bottom),
            "bottom": bottom,
            "narrowest": NARROWEST_M,
            "up": (-T[1, :3]).tolist(),
        },
        "camera": {
            "K": [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])],
            "T": T.flatten().tolist(),
            "width": filmed.width,
            "height": filmed.height,
        },
        "rest": {
            "gaze": rest.gaze.flatten().tolist(),
            "head": rest.T_world_head.flatten().tolist(),
            "torso": rest.T_world_torso.flatten().tolist(),
        },
    }


def _facts(avatar: Avatar, more: Mapping[str, str]) -> list[list[str]]:
    """Return label and text of what the panel shows: who it shows, consent, how it was made."""
    found = {"Gaussians": f"{len(avatar):,}"}
    for name, label in FACTS.items():
        value = avatar.header.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            found[label] = str(value)
    return [[label, str(text)] for label, text in (found | dict(more)).items()]


_TYPES = {"<f4": "f4", "<f2": "f2", "|i1": "i1", "|u1": "u1", "<i2": "i2", "<u2": "u2"}


def _packed(header: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> bytes:
    """Return magic, version, header and arrays; every array begins at a multiple of 8 bytes."""
    entries: dict[str, Any] = {}
    content = bytearray()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name].detach().cpu().numpy())
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        raw = array.tobytes()
        entries[name] = {
            "at": len(content),
            "type": _TYPES[array.dtype.newbyteorder("<").str],
            "size": len(raw),
        }
        content += raw + bytes(-len(raw) % 8)
    text = json.dumps({**header, "arrays": entries}, allow_nan=False, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return MAGIC + struct.pack("<II", VERSION, len(text)) + text + bytes(content)
