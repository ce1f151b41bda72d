"""A webcam as a live source: frames to face points to coefficients to an avatar.

One thread reads the camera and keeps the newest picture alone, another finds the face and fits it, so
that pictures that come faster than they are fitted are dropped, not queued. A camera that disappears
(unplugged, taken by a call) is opened again every second while the avatar holds and then rests.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from avatar.checks import InputError
from avatar.drive.live import FaceSample, LiveConfig, StreamDriver
from avatar.drive.replay import Recorder
from avatar.model.avatar import Avatar
from avatar.types import HeadState
from capture.ingest import probe, read_frames
from capture.landmarks import FaceDetector
from capture.live_fit import FittedRig, LiveFit, LiveFitConfig

SIZE = (640, 480)
"""Asked of a camera; larger pictures find no better points, and take longer."""
RETRY_S = 1.0
"""How often a camera that is gone is opened again."""
MISSES = 10
"""Pictures in a row that a camera does not give before it counts as gone."""
STALLED_S = 3.0
"""A camera that gives nothing for so long, be it still open, is said to be gone."""


LEARNING = "pictures to learn the face from"


class Camera(Protocol):
    """Gives pictures until it has no more."""

    def read(self) -> np.ndarray | None:
        """Wait for the next picture, uint8 [H, W, 3] sRGB; None where none came."""
        ...

    def close(self) -> None:
        """Free the device."""
        ...


class DeviceCamera:
    """A camera of this machine, by its number."""

    def __init__(self, index: int) -> None:
        """Open it.

        Raises:
            InputError: there is none, or another program has it.
        """
        before = cv2.getLogLevel()  # type: ignore[attr-defined]
        cv2.setLogLevel(0)  # type: ignore[attr-defined]
        try:
            self._device = cv2.VideoCapture(index)
            opened = self._device.isOpened()
        finally:
            cv2.setLogLevel(before)  # type: ignore[attr-defined]
        if not opened:
            self._device.release()
            raise InputError(
                f"There is no camera {index}, or another program is using it. Plug one in, close that "
                "program, or choose another number with --webcam."
            )
        self._device.set(cv2.CAP_PROP_FRAME_WIDTH, SIZE[0])
        self._device.set(cv2.CAP_PROP_FRAME_HEIGHT, SIZE[1])
        self._device.set(cv2.CAP_PROP_BUFFERSIZE, 1)

    def read(self) -> np.ndarray | None:
        """See ``Camera``."""
        given, picture = self._device.read()
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if given and picture is not None else None

    def close(self) -> None:
        """See ``Camera``."""
        self._device.release()


class ClipCamera:
    """A clip played as if a camera filmed it: in real time, then nothing."""

    def __init__(
        self,
        path: Path,
        *,
        realtime: bool = True,
        fps: float | None = None,
        size: tuple[int, int] | None = SIZE,
    ) -> None:
        """Open a clip.

        Args:
            path: any video that FFmpeg reads.
            realtime: give each picture at its time, else at once.
            fps: pictures a second; the clip's own where None.
            size: pictures are scaled down to fit into this, as a camera's would be; None leaves them.

        Raises:
            InputError: it cannot be read.
        """
        self._clip = probe(path)
        self._frames = read_frames(self._clip)
        self._realtime, self._size = realtime, size
        self.fps = fps or self._clip.fps
        """Pictures a second."""
        self._start: float | None = None
        self._given = 0

    def read(self) -> np.ndarray | None:
        """See ``Camera``; None at the clip's end."""
        picture = next(self._frames, None)
        if picture is None:
            return None
        now = time.perf_counter()
        self._start = now if self._start is None else self._start
        if self._realtime:
            time.sleep(max(0.0, self._start + self._given / self.fps - now))
        self._given += 1
        if self._size is None:
            return picture
        height, width = picture.shape[:2]
        scale = min(1.0, self._size[0] / width, self._size[1] / height)
        if scale == 1:
            return picture
        return cv2.resize(
            picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA
        )

    def close(self) -> None:
        """See ``Camera``."""
        self._frames.close()  # type: ignore[attr-defined]


def open_camera(spec: str) -> Camera:
    """Open a camera by its number, or a clip by its path; raises InputError where it cannot be."""
    if re.fullmatch(r"[0-9]{1,3}", spec):
        return DeviceCamera(int(spec))
    if not Path(spec).is_file():
        raise InputError(
            f"--webcam {spec}: expected the number of a camera (0 is the first), or a video to play as "
            "one."
        )
    return ClipCamera(Path(spec))


class FaceReader:
    """Pictures of one camera to samples; the work of a webcam without its threads."""

    def __init__(self, config: LiveFitConfig | None = None, sender: str = "webcam") -> None:
        """Load the face models."""
        self._detector = FaceDetector(max_faces=1)
        self._config, self._sender = config, sender
        self._fit: LiveFit | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="webcam rig")
        self._rig: Future[FittedRig] | None = None
        self._size = (0, 0)
        self._lost = False

    def sample(self, picture: np.ndarray, time_s: float) -> FaceSample | None:
        """Return what a picture [H, W, 3], taken at a time, says; None where it shows no face."""
        points = self._detector.detect(picture)
        if points is None:
            self._lost = True
            return None
        size = (picture.shape[1], picture.shape[0])
        if self._fit is None or size != self._size:
            self._fit, self._size, self._rig = LiveFit(*size, self._config), size, None
        if self._lost:
            self._fit.restart()
            self._lost = False
        face = self._fit.add(points, time_s)
        # Fitting the rig anew takes a second or two: the face goes on meanwhile with the one it has.
        if self._rig is not None and self._rig.done():
            self._fit.adopt(self._rig.result())
            self._rig = None
        elif self._rig is None and self._fit.rig_due:
            self._rig = self._pool.submit(self._fit.better_rig)
        return FaceSample(face.weights, face.head, face.gaze, time_s, self._sender)

    @property
    def settled(self) -> bool:
        """Whether the performer's first, neutral second is over."""
        return self._fit is not None and self._fit.settled

    def close(self) -> None:
        """Free the models."""
        self._pool.shutdown(cancel_futures=True)
        self._detector.close()


class WebcamDriver:
    """A camera that drives an avatar; a ``LiveDriver``."""

    def __init__(
        self,
        avatar: Avatar,
        opener: Callable[[], Camera],
        *,
        config: LiveConfig | None = None,
        record: Path | None = None,
        label: str = "webcam",
    ) -> None:
        """Open the camera and begin, in two threads.

        Args:
            avatar: who is driven.
            opener: opens the camera; called again when it is gone.
            config: how the stream is put on the avatar.
            record: also write the samples to this .jsonl file.
            label: what the note calls the stream.

        Raises:
            InputError: there is no camera, or the recording cannot be written.
        """
        self.stream = StreamDriver(avatar, config, label)
        self._opener = opener
        self._camera: Camera | None = opener()
        try:
            self._recorder = None if record is None else Recorder(record)
        except InputError:
            self._camera.close()
            raise
        self._newest: tuple[np.ndarray, float] | None = None
        self._given = threading.Condition()
        self._ended = threading.Event()
        self._gone = False
        self._last_picture = time.perf_counter()
        self._threads = [
            threading.Thread(target=work, name=f"{label} {name}", daemon=True)
            for name, work in (("reading", self._read), ("fitting", self._follow))
        ]
        for thread in self._threads:
            thread.start()

    def state(self, now_s: float) -> HeadState:
        """See ``StreamDriver.state``."""
        return self.stream.state(now_s)

    def note(self, now_s: float) -> str:
        """See ``StreamDriver.note``; says so where the camera is gone."""
        if self._gone or now_s - self._last_picture > STALLED_S:
            return f"{self.stream.label}: the camera gives no picture; trying to open it again."
        if not self.stream.counts["accepted"] and self.stream.counts[LEARNING]:
            return f"{self.stream.label}: learning the face; look into the camera, face at rest."
        text = self.stream.note(now_s)
        return f"{text} {self._recorder.failure}".strip() if self._recorder else text

    def calibrate(self) -> None:
        """Take the performer's neutral afresh."""
        self.stream.calibrate()

    def close(self) -> None:
        """End the threads, free the camera and finish the recording; twice does no harm."""
        self._ended.set()
        with self._given:
            self._given.notify_all()
        for thread in self._threads:
            thread.join(5.0)
        if self._recorder is not None:
            self._recorder.close()

    def _read(self) -> None:
        misses = 0
        try:
            while not self._ended.is_set():
                if self._camera is None:
                    self._gone = True
                    if self._ended.wait(RETRY_S):
                        return
                    try:
                        self._camera = self._opener()
                    except InputError:
                        continue
                picture = self._camera.read()
                now = time.perf_counter()
                if picture is None:
                    misses += 1
                    if misses >= MISSES:
                        self._camera.close()
                        self._camera, misses = None, 0
                    else:
                        self._ended.wait(0.01)
                    continue
                misses, self._gone, self._last_picture = 0, False, now
                with self._given:
                    if self._newest is not None:
                        self.stream.drop("pictures faster than they are fitted")
                    self._newest = (picture, now)
                    self._given.notify()
        finally:
            if self._camera is not None:
                self._camera.close()

    def _follow(self) -> None:
        reader = FaceReader()
        settled = False
        try:
            while True:
                with self._given:
                    self._given.wait_for(lambda: self._newest is not None or self._ended.is_set())
                    if self._ended.is_set() or self._newest is None:
                        return
                    (picture, taken), self._newest = self._newest, None
                sample = reader.sample(picture, taken)
                if sample is None:
                    self.stream.drop("pictures without a face")
                    continue
                if not settled:
                    # What was seen before the lattice is the performer's is no neutral of theirs.
                    settled = reader.settled
                    self.stream.drop(LEARNING)
                    continue
                arrival = time.perf_counter()
                if self._recorder is not None:
                    self._recorder.add(sample, arrival)
                self.stream.push(sample, arrival)
        finally:
            reader.close()
