"""A small face with everything that a page poses: skin, eyes, a mouth's inside, shoulders."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from avatar.drive.motion import FaceMotion, motion_states
from avatar.model.avatar import Avatar, Person
from avatar.model.binding import HEAD, MOUTH, TORSO, Binding
from avatar.model.mouth import fill_mouth, inner_rig
from avatar.rig.arkit import ARKIT_NAMES
from avatar.rig.arkit_basis import generic_arkit_basis
from avatar.rig.lattice import eyeball_centres, lattice_table
from avatar.types import Camera, HeadState


def face_avatar(deformer: str = "branches", skin: int = 1500, torso: int = 300) -> Avatar:
    """A face on the generic lattice with eyes, a mouth's inside and shoulders, and learned offsets."""
    generator = torch.Generator().manual_seed(4)
    table = lattice_table()
    names = (*ARKIT_NAMES, "residual00")
    residual = torch.randn(1, 478, 3, generator=generator) * 1e-4
    basis = torch.cat([generic_arkit_basis(), residual])
    inner = inner_rig(table.neutral, basis, names)
    lattice = torch.cat([table.neutral, inner.points])
    triangles = torch.cat([table.triangles, inner.triangles])
    basis = torch.cat([basis, inner.basis], 1)

    def grey(points: torch.Tensor) -> torch.Tensor:
        return torch.full((len(points), 3), 0.5)

    mouth = fill_mouth(lattice, triangles, 200, grey, generator)
    eyes, inside = 40, len(mouth.means)
    triangle = torch.randint(len(table.triangles), (skin,), generator=generator)
    weights = torch.rand(skin, 3, generator=generator)
    weights = weights / weights.sum(1, keepdim=True)
    on_skin = (lattice[triangles[triangle]] * weights[..., None]).sum(1)
    side = torch.arange(eyes) % 2
    spread = torch.randn(eyes, 3, generator=generator) * 0.004
    on_eyes = eyeball_centres(table.neutral)[side] + spread + torch.tensor([0.0, 0.0, 0.01])
    shoulders = torch.rand(torso, 3, generator=generator) - 0.5
    shoulders = shoulders * torch.tensor([0.3, 0.06, 0.08]) + torch.tensor([0.0, -0.2, -0.02])
    means = torch.cat([on_skin, on_eyes, mouth.means, shoulders])
    count = len(means)
    third = torch.full((1, 3), 1 / 3)
    binding = Binding(
        torch.cat([triangle, torch.zeros(eyes).long(), mouth.triangle, torch.zeros(torso).long()]),
        torch.cat([weights, third.expand(eyes, 3), mouth.weights, third.expand(torso, 3)]),
        torch.cat([torch.ones(skin), torch.zeros(eyes), mouth.follow, torch.zeros(torso)]),
        torch.cat([torch.full((skin,), -1), side, torch.full((inside + torso,), -1)]),
        torch.cat(
            [torch.full((n,), p) for n, p in ((skin + eyes, HEAD), (inside, MOUTH), (torso, TORSO))]
        ),
    )
    T_cam_world = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    T_cam_world[2, 3] = 0.7
    K = torch.tensor([[320.0, 0, 120], [0, 320.0, 100], [0, 0, 1]])
    turned = torch.eye(4)
    turned[:3, 3] = torch.tensor([0.004, -0.003, 0.002])
    person = Person(
        lattice=lattice,
        basis=basis,
        triangles=triangles,
        eyeballs=eyeball_centres(table.neutral),
        expression_names=names,
        expression_low=torch.zeros(len(names)),
        expression_high=torch.full((len(names),), 0.8),
        rest=HeadState(torch.zeros(len(names)), torch.full((2, 2), 0.02), turned, torch.eye(4)),
        camera=Camera(K, T_cam_world, 240, 240),
        fps=25.0,
    )
    sizes = torch.cat(
        [torch.full((skin + eyes,), 0.004), mouth.scale_m, torch.full((torso,), 0.009)]
    )
    parameters = {
        "means": means,
        "quats": torch.randn(count, 4, generator=generator),
        "log_scales": sizes.log()[:, None] + torch.randn(count, 3, generator=generator) * 0.4,
        "logit_opacities": torch.randn(count, generator=generator) + 1.5,
        "colours": torch.rand(count, 3, generator=generator),
        "torso_logits": torch.where(binding.part == TORSO, 6.0, -6.0),
    }
    settings = {"shapes": 6, "hidden": 16}
    avatar = Avatar(
        person,
        binding,
        parameters,
        deformer=deformer,
        settings=settings,
        generator=generator,
        header={"who": "<Ada> & co", "consent": "Ada agreed.", "source_sha256": "f00"},
    )
    with torch.no_grad():
        for name, value in avatar.deformer.named_parameters():
            if name.endswith("offsets"):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.15)
        avatar.deformer.feature_scale.fill_(0.5)
    # Through a file, which rounds: what a page shows of an avatar is what its file holds.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "face.avatar"
        avatar.save(path)
        return Avatar.load(path)


def talking(avatar: Avatar, seconds: float = 2.0) -> HeadState:
    """States in which the jaw opens and closes and the head nods."""
    count = round(seconds * avatar.fps)
    time_s = torch.arange(count, dtype=torch.float64) / avatar.fps
    weights = torch.zeros(count, 52, dtype=torch.float64)
    weights[:, ARKIT_NAMES.index("jawOpen")] = torch.sin(time_s * 6).abs() * 0.6
    head = torch.stack([0.2 * torch.sin(time_s), 0.1 * torch.cos(time_s), 0 * time_s], 1)
    return motion_states(FaceMotion(time_s, weights, head), avatar.rest, avatar.fps)
