"""Gaussians stay where they belong, which photographs alone do not tell.

From one camera a dab of skin before an eye passes for the eye, and an eyeball before a lid for the lid;
only when the eye shuts, or the mouth opens wider than it was filmed, does the one that moves with the
wrong part tear out of place. So after each step means are put back within reach of where they hang.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from avatar.model.avatar import Avatar
from avatar.model.create_features import EYE_CONTOURS, eyeball_radii, near_openings
from avatar.model.mouth import JAW_TRIANGLES, skin_triangles
from avatar.rig.lattice import lattice_table

EDGE_REACH_M = 0.003
"""How far a Gaussian on lips and lids, where the next place moves in another way, gets from its place in
its triangle. Other skin is free: below the chin it stands for what the lattice does not have."""
LID_DEPTH_M = 0.0005
"""The same on lids, towards the eyeball: there they would leave the shut eye uncovered."""
MOUTH_REACH_M = 0.004
"""The same, up, down, forwards and back, inside the mouth."""
WALL_BRIGHTEST = 0.22
"""No channel of the mouth's wall gets brighter: seen between teeth it would pass for them."""
TONGUE_RED = (0.4, 0.74)
"""A tongue has at least so much red, and at most this share of it in green and blue."""


class Placement:
    """Puts means back within reach; remembers limits until the binding changes."""

    def __init__(self) -> None:
        self._of: Tensor | None = None
        self._reach = self._anchor = self._axes = torch.empty(0)
        self._lids = (torch.empty(0, dtype=torch.long), torch.empty(0, 3))
        self._wall = self._tongue = torch.empty(0, dtype=torch.long)
        self._eyes: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def hold(self, avatar: Avatar) -> None:
        """Move means of ``avatar`` that are out of reach to the end of it, in place."""
        if self._of is not avatar.triangle:
            self._prepare(avatar)
        away = (avatar.means - self._anchor) * self._axes
        distance = away.norm(dim=1)
        back = (1 - self._reach / distance.clamp(min=1e-9)).clamp(min=0)
        avatar.means.sub_(away * back[:, None])
        rows, outward = self._lids
        depth = -(avatar.means[rows] - self._anchor[rows]).mul(outward).sum(1)
        avatar.means[rows] += outward * (depth - LID_DEPTH_M).clamp(min=0)[:, None]
        avatar.colours[self._wall] = avatar.colours[self._wall].clamp(max=WALL_BRIGHTEST)
        colour = avatar.colours[self._tongue]
        red = colour[:, :1].clamp(min=TONGUE_RED[0])
        others = torch.minimum(colour[:, 1:], TONGUE_RED[1] * red)
        avatar.colours[self._tongue] = torch.cat([red, others], 1)
        for rows, centre, radius in self._eyes:
            # What is thick before and behind must lie deeper.
            depth = avatar.log_scales[rows].exp().amin(1)
            arm = avatar.means[rows] - centre
            distance = arm.norm(dim=1)
            most = (radius - depth).clamp(min=0.5 * radius)
            avatar.means[rows] = centre + arm * (most / distance).clamp(max=1)[:, None]

    def _prepare(self, avatar: Avatar) -> None:
        """Find limits on the CPU, and leave them where the avatar is."""
        device, followed = avatar.means.device, avatar.triangle
        names = ("lattice", "triangles", "triangle", "barycentric", "follow", "eye")
        there = {name: getattr(avatar, name).cpu() for name in (*names, "eyeballs", "basis")}
        self._find(SimpleNamespace(**there))
        for name in ("_anchor", "_reach", "_tongue", "_wall", "_axes"):
            setattr(self, name, getattr(self, name).to(device))
        rows, outward = self._lids
        self._lids = (rows.to(device), outward.to(device))
        self._eyes = [(r.to(device), c.to(device), d.to(device)) for r, c, d in self._eyes]
        self._of = followed

    def _find(self, avatar: SimpleNamespace) -> None:
        corners = avatar.lattice[avatar.triangles[avatar.triangle]]
        self._anchor = (corners * avatar.barycentric[..., None]).sum(1)
        skin = (avatar.follow >= 1) & (avatar.triangle < skin_triangles()) & (avatar.eye < 0)
        mouth = avatar.triangle >= skin_triangles()
        edge = near_openings()[avatar.triangle.clamp(max=skin_triangles() - 1)]
        on_lid = torch.isin(lattice_table().triangles, torch.tensor(EYE_CONTOURS)).any(1)
        lids = torch.nonzero(skin & on_lid[avatar.triangle.clamp(max=skin_triangles() - 1)])[:, 0]
        out = self._anchor[lids, None] - avatar.eyeballs
        nearer = out.norm(dim=2).argmin(1)
        self._lids = (lids, normalize(out[torch.arange(len(lids)), nearer], dim=1))
        reach = torch.full((len(avatar.triangle),), torch.inf)
        reach[skin & edge] = EDGE_REACH_M
        reach[mouth] = MOUTH_REACH_M
        self._reach = reach
        tongue = avatar.triangle >= skin_triangles() + JAW_TRIANGLES
        self._tongue = torch.nonzero(tongue)[:, 0]
        on_wall = mouth & ~tongue & (avatar.follow > 0) & (avatar.follow < 1)
        self._wall = torch.nonzero(on_wall)[:, 0]
        self._axes = torch.ones(len(avatar.triangle), 3)
        # Points of jaw and tongue lie in one plane; across it there is no anchor.
        self._axes[mouth, 0] = 0
        radii = eyeball_radii(avatar.lattice, avatar.basis, avatar.eyeballs)
        self._eyes = [
            (torch.nonzero(avatar.eye == side)[:, 0], avatar.eyeballs[side], radii[side])
            for side in (0, 1)
        ]
