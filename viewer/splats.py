"""Gaussians drawn by the browser: to look round without waiting for the server.

viser keeps covariances in half precision, which has three digits above 6e-5 and none below 6e-8: a
Gaussian of a millimetre, 1e-6 m^2, would be noise. They are sent ``SCALE`` times as large and shown that
much smaller. The browser's blending differs a little from ours; the server's pictures are the exact ones.
"""

from __future__ import annotations

import threading

import numpy as np
import viser
from torch import Tensor

from avatar.rotations import quat_to_matrix
from avatar.types import Gaussians
from viewer.stage import Stage

SCALE = 100.0
"""Gaussians of 0.03 to 11.5 mm then have covariances of 1e-5 to 1.3."""
LEAST_STD = 0.004
"""Standard deviation below which half precision has no digits left, in scaled units (0.04 mm)."""
UPDATE_S = 0.12
"""How often moving Gaussians are sent, at most: 28,000 of them are 0.9 MB."""
NAME = "/avatar"


class Splats:
    """Keeps the Gaussians in all pages like the stage's, while that is asked for."""

    def __init__(self, server: viser.ViserServer, stage: Stage) -> None:
        """Prepare; nothing is sent before the stage's look asks for it."""
        self._server, self._stage = server, stage
        self._handle: viser.GaussianSplatHandle | None = None
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="viewer splats", daemon=True)

    def start(self) -> None:
        """Follow the stage from now on."""
        self._stage.listen(self._wake.set)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stage.forget(self._wake.set)
        self._ended.set()
        self._wake.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        shown: object = None
        while not self._ended.is_set():
            self._wake.wait()
            self._wake.clear()
            moment = self._stage.moment
            if self._ended.is_set():
                return
            if not moment.look.in_browser:
                if self._handle is not None:
                    self._handle.remove()
                    self._handle, shown = None, None
                continue
            now = (moment.avatar, moment.state, moment.look.gains)
            if now == shown or not self._server.get_clients():
                continue
            shown = now
            packed = as_splats(self._stage.gaussians(moment))
            if self._handle is None:
                self._handle = self._server.scene.add_gaussian_splats(
                    NAME, *packed, scale=1.0 / SCALE
                )
            else:
                self._handle.set_gaussians(*packed)
            self._ended.wait(UPDATE_S)


def as_splats(gaussians: Gaussians) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return centres [N, 3], covariances [N, 3, 3], colours [N, 3] and opacities [N, 1] as viser takes
    them, lengths times ``SCALE``."""
    quats = gaussians.quats / gaussians.quats.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    scales = (gaussians.scales * SCALE).clamp_min(LEAST_STD)
    axes: Tensor = quat_to_matrix(quats) * scales[:, None, :]
    covariances = axes @ axes.transpose(1, 2)
    return (
        (gaussians.means * SCALE).cpu().numpy(),
        covariances.cpu().numpy(),
        gaussians.colours.clamp(0, 1).cpu().numpy(),
        gaussians.opacities.clamp(0, 1)[:, None].cpu().numpy(),
    )
