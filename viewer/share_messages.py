"""What browsers may send to the viewer behind a shared address: kinds, sizes and pace of messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import msgspec

TOO_BIG, BROKEN, NOT_ALLOWED = 1009, 1007, 1008
"""Close codes of RFC 6455, section 7.4.1."""

PASSED_ON = frozenset(
    {
        "ViewerCameraMessage",
        "GuiUpdateMessage",
        "GuiButtonHoldMessage",
        "GuiFormSubmitMessage",
        "GuiFormDirtyMessage",
        "CommandTriggerMessage",
        "ScenePointerMessage",
        "SceneNodeClickMessage",
        "SceneNodeDragMessage",
        "TransformControlsUpdateMessage",
        "TransformControlsDragStartMessage",
        "TransformControlsDragEndMessage",
        "GetRenderResponseMessage",
        "LocalStorageGetItemResponseMessage",
        "FileTransferStartUpload",
        "FileTransferPart",
    }
)
"""Kinds of viser's messages that a browser's controls send. Others are dropped: ShareUrlRequest, for one,
would make the viewer open a tunnel to a public server."""


class Refused(Exception):
    """A message for which the connection is to end; ``code`` is a close code of RFC 6455."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class UploadLimits:
    """What may be uploaded."""

    most_bytes: int = 64 << 20
    """Of one file."""
    at_a_time: int = 2
    suffixes: frozenset[str] = frozenset(
        {".json", ".csv", ".wav", ".mp3", ".flac", ".ogg", ".m4a", ".mp4", ".mov", ".webm"}
    )
    """Kinds of file: poses, motion, sound, clips."""


class _Head(msgspec.Struct):
    """The fields of viser's messages that are looked at here; others are skipped."""

    type: str
    transfer_uuid: str = ""
    filename: str = ""
    size_bytes: int = 0
    part_count: int = 0
    content: bytes = b""


_decode = msgspec.msgpack.Decoder(_Head).decode


class Messages:
    """Looks at all messages of one connection, in order."""

    def __init__(self, limits: UploadLimits = UploadLimits()) -> None:
        """Begin with no upload under way."""
        self._limits = limits
        self._uploads: dict[str, int] = {}
        """Bytes that are still to come of each."""

    def admit(self, data: bytes) -> bool:
        """Return whether to pass a message on; False drops it.

        Raises:
            Refused: it is none of viser's, or an upload breaks its limits.
        """
        try:
            head = _decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise Refused(BROKEN, "not a message of the viewer's page") from error
        if head.type == "FileTransferStartUpload":
            self._begin(head)
        elif head.type == "FileTransferPart":
            self._continue(head)
        return head.type in PASSED_ON

    def _begin(self, head: _Head) -> None:
        limits = self._limits
        if not 0 <= head.size_bytes <= limits.most_bytes:
            most = limits.most_bytes >> 20
            raise Refused(TOO_BIG, f"an uploaded file may have {most} MiB at most")
        if PurePosixPath(head.filename).suffix.lower() not in limits.suffixes:
            raise Refused(NOT_ALLOWED, "files of this kind cannot be uploaded")
        # A part holds a byte at least; viser keeps a slot for each.
        if not 0 <= head.part_count <= max(1, head.size_bytes):
            raise Refused(NOT_ALLOWED, "an upload of more parts than bytes")
        if head.transfer_uuid in self._uploads or len(self._uploads) >= limits.at_a_time:
            raise Refused(NOT_ALLOWED, f"{limits.at_a_time} uploads at a time at most")
        if head.size_bytes:
            self._uploads[head.transfer_uuid] = head.size_bytes

    def _continue(self, head: _Head) -> None:
        left = self._uploads.get(head.transfer_uuid)
        if left is None or len(head.content) > left:
            raise Refused(NOT_ALLOWED, "a part of no announced upload")
        left -= len(head.content)
        if left:
            self._uploads[head.transfer_uuid] = left
        else:
            del self._uploads[head.transfer_uuid]


class Pace:
    """A token bucket: whoever sends more than is agreed is read more slowly."""

    def __init__(
        self, per_s: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with a full bucket.

        Args:
            per_s: units a second in the long run.
            burst: units that may come at once.
            clock: seconds, never going back.
        """
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._level, self._seen = burst, clock()

    def owed_s(self, units: float) -> float:
        """Take units out of the bucket; return for how many seconds nothing more should be read."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._seen) * self._per_s) - units
        self._seen = now
        return max(0.0, -self._level / self._per_s)

    async def take(self, units: float) -> None:
        """Take units, and wait as long as is owed."""
        if (wait := self.owed_s(units)) > 0:
            await asyncio.sleep(wait)
