"""What every exported picture, video and page of an avatar carries: its manifest and the watermark."""

from __future__ import annotations

from typing import Any

import numpy as np

from avatar.export.provenance import avatar_id, fingerprint, manifest
from avatar.export.watermark import Watermark
from avatar.model.avatar import Avatar


class Signature:
    """Marks pictures of one avatar and says where files of it come from; for one thread at a time."""

    def __init__(self, avatar: Avatar, *, watermark: bool = True) -> None:
        """Prepare to mark.

        Args:
            avatar: who is shown.
            watermark: whether pictures are marked; a manifest is made in any case.
        """
        self._avatar = avatar
        self._mark = Watermark(avatar_id(fingerprint(avatar))) if watermark else None

    def marked(self, picture: np.ndarray) -> np.ndarray:
        """Return a picture uint8 [H, W, 3], or [H, W, 4] with straight alpha, with the watermark in it."""
        if self._mark is None:
            return picture
        colours = self._mark.mark(np.ascontiguousarray(picture[..., :3]))
        return np.concatenate([colours, picture[..., 3:]], axis=2)

    def manifest(self, format: str, title: str) -> dict[str, Any]:
        """Return the manifest of a file of that media type and name."""
        return manifest(self._avatar, format=format, title=title, marked=self._mark is not None)
