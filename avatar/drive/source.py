"""Where an avatar's motion comes from: its own capture, another's, an ARKit file, a recorded stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import roma
import torch
from torch import Tensor

from avatar.capture_data import Capture, Track
from avatar.checks import InputError
from avatar.drive.arkit_csv import read_arkit
from avatar.drive.audio import AudioDriver
from avatar.drive.audio_features import AUDIO_SUFFIXES
from avatar.drive.motion import (
    ARKIT_COUNT,
    BatchDriver,
    gaze_from_weights,
    interpolated,
    motion_states,
)
from avatar.drive.replay import RECORDING_SUFFIX, RecordingDriver
from avatar.drive.retarget import (
    RetargetConfig,
    for_avatar,
    limited_gaze,
    limited_head,
    limited_turns,
    reach_of,
    retargeted_weights,
)
from avatar.drive.voice import VoiceModel
from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_NAMES
from avatar.rotations import invert_rigid, matrix_to_rotvec, rigid, rotvec_to_matrix
from avatar.types import Driver, HeadState

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")

SOURCE_KINDS = (
    "Give 'self' (the avatar's own capture), a .capture folder of any person, a .csv or .json "
    "file of ARKit coefficients, a .jsonl recording of a live stream, or speech (.wav, .mp3, .m4a, .ogg, "
    ".flac)."
)


class TrackDriver(BatchDriver):
    """Plays a person's own track; frames where no face was found are interpolated."""

    def __init__(self, track: Track, frames: tuple[int, int] | None = None) -> None:
        """Take the frames [first, last) of a track, by default all.

        Raises:
            InputError: the range does not lie in the track, or shows no face at all.
        """
        super().__init__(track_states(track, frames), track.fps)


class RetargetedTrackDriver(BatchDriver):
    """Plays another person's track on an avatar; see ``retargeted``."""

    def __init__(
        self,
        source: Track,
        avatar: Avatar,
        frames: tuple[int, int] | None = None,
        config: RetargetConfig | None = None,
    ) -> None:
        """Take the frames [first, last) of the track, by default all; raises as TrackDriver."""
        states = retargeted(source, avatar, frames, config or RetargetConfig())
        super().__init__(states, source.fps)


class ArkitFileDriver(BatchDriver):
    """Plays a CSV or JSON file of ARKit coefficients on an avatar, at the avatar's frame rate."""

    def __init__(
        self,
        path: Path,
        avatar: Avatar,
        frames: tuple[int, int] | None = None,
        config: RetargetConfig | None = None,
    ) -> None:
        """Read ``path`` and put it on the avatar at rest.

        Coefficients are taken as they are: 1 means as far as a face goes. Head and eyes turn no
        further than the config allows.

        Args:
            path: the file, as ``avatar.drive.arkit_csv.read_arkit`` takes it.
            avatar: whose rest pose and frame rate to use.
            frames: the part [first, last) to play, frames of the avatar's rate; None for all.
            config: share of the head's turns, and limits of head and gaze.

        Raises:
            InputError: the file cannot be used, or the part does not lie in it.
        """
        motion = read_arkit(path, fps=avatar.fps)
        limits = for_avatar(config or RetargetConfig(), avatar)
        gaze = gaze_from_weights(motion.weights) if motion.gaze is None else motion.gaze
        motion = replace(
            motion,
            head=None if motion.head is None else limited_head(motion.head, limits),
            gaze=limited_gaze(gaze, limits),
        )
        batch = motion_states(motion, avatar.rest, avatar.fps)
        first, last = frames or (0, len(batch))
        _check_frames((first, last), len(batch), str(path))
        super().__init__(batch[first:last], avatar.fps)


@dataclass(frozen=True)
class Source:
    """An opened ``--drive`` argument; itself a ``Driver``."""

    driver: Driver
    """What yields the states."""
    frames: int
    """How many states it yields; 0 where unknown."""
    audio: Path | None = None
    """The sound that belongs to the motion; None where there is none."""
    audio_start_s: float = 0.0
    """Where in ``audio`` the first state lies, seconds."""
    note: str = ""
    """A sentence for the user about how the motion was made; empty where there is nothing to say."""

    @property
    def fps(self) -> float:
        """States per second."""
        return self.driver.fps

    def __len__(self) -> int:
        return self.frames

    def states(self) -> Iterator[HeadState]:
        """Yield one state a frame."""
        return self.driver.states()


def open_source(
    spec: str,
    avatar: Avatar,
    *,
    track: Track | None = None,
    audio: Path | None = None,
    frames: tuple[int, int] | None = None,
    config: RetargetConfig | None = None,
    voice: Path | None = None,
) -> Source:
    """Open what a user names as the source of motion.

    Args:
        spec: ``"self"``, a capture folder (or a folder that holds a ``me.capture``), an ARKit
            .csv or .json file, a recorded stream (.jsonl), or speech (.wav and others). A capture of the very clip that the avatar was made from is played
            as it is; any other is retargeted.
        avatar: who is to be driven.
        track: the avatar's own track: what ``"self"`` plays, and how far other sources may turn the
            head where ``config`` does not say it.
        audio: the sound of the avatar's own clip, for ``"self"``.
        frames: the part [first, last) to play: frames of the capture, or of the avatar's rate for
            a file.
        config: how to retarget.
        voice: a .voice file that says how the person speaks, for speech; the fallback without training
            where None.

    Raises:
        InputError: the source is missing, of an unknown kind, damaged, or does not fit the avatar.
    """
    if spec == "self":
        if track is None:
            raise InputError(
                "The avatar's own capture is not at hand, so it cannot be driven by 'self'. "
                "Name the .capture folder that it was made from instead."
            )
        _check_own(track, avatar, "the avatar's own capture")
        return _track_source(TrackDriver(track, frames), audio, frames)
    config = config or RetargetConfig()
    if config.reach is None and track is not None:
        config = replace(config, reach=reach_of(track, avatar.rest))
    path = Path(spec)
    if path.is_dir():
        nested = path / "me.capture"
        capture = Capture(nested if nested.is_dir() else path)
        made_from = avatar.header.get("source_sha256")
        if made_from and made_from == capture.source_sha256:
            _check_own(capture.track, avatar, str(path))
            return _track_source(TrackDriver(capture.track, frames), capture.audio, frames)
        driver = RetargetedTrackDriver(capture.track, avatar, frames, config)
        return _track_source(driver, capture.audio, frames)
    suffix = path.suffix.lower()
    if not path.exists():
        raise InputError(f"There is no driving source {spec}. {SOURCE_KINDS}")
    if suffix in VIDEO_SUFFIXES:
        capture_path = path.with_suffix(".capture")
        raise InputError(
            f"{spec} is a video, whose motion must be tracked first. Run: avatar capture {spec} "
            f"-o {capture_path}, then drive with {capture_path}"
        )
    if suffix == RECORDING_SUFFIX:
        driver = RecordingDriver(path, avatar, config)
        first, last = frames or (0, len(driver))
        _check_frames((first, last), len(driver), spec)
        driver.batch = driver.batch[first:last]
        return Source(driver, len(driver))
    if suffix in AUDIO_SUFFIXES:
        model = None if voice is None else VoiceModel.load(voice)
        speech = AudioDriver(path, avatar, model, frames)
        start = 0.0 if frames is None else frames[0] / speech.fps
        return Source(speech, len(speech), path, start, f"{spec}: {speech.note}.")
    if suffix not in (".csv", ".json"):
        raise InputError(f"{spec} is no driving source. {SOURCE_KINDS}")
    driver = ArkitFileDriver(path, avatar, frames, config)
    return Source(driver, len(driver))


def track_states(track: Track, frames: tuple[int, int] | None = None) -> HeadState:
    """Return the states of a track's frames [first, last) as a batch, gaps interpolated.

    Raises:
        InputError: the range does not lie in the track, or shows no face at all.
    """
    first, last = frames or (0, len(track))
    _check_frames((first, last), len(track), "the track")
    valid = track.valid[first:last].bool()
    if not bool(valid.any()):
        raise InputError(
            f"Frames {first} to {last - 1} of the track show no face. "
            "Choose another part, or film again."
        )
    return interpolated(track.states()[first:last], valid)


def retargeted(
    source: Track, avatar: Avatar, frames: tuple[int, int] | None, config: RetargetConfig
) -> HeadState:
    """Return another person's motion as states of the avatar, a batch.

    Everything is taken relative to the source's own middle, measured on the whole track, and put on
    the avatar's rest state: ARKit coefficients by name, from the source's range to the avatar's;
    gaze and head softly limited to how far the avatar's person was filmed to turn; head and torso
    poses as motions in their own frames, so that a nod stays a nod however the two cameras stood. The source's residual shapes are personal and are dropped.

    Args:
        source: the other person's track.
        avatar: who is to be driven.
        frames: the source's frames [first, last); None for all.
        config: shares and limits.

    Raises:
        InputError: as ``track_states``, or the source's track has no ARKit coefficients.
    """
    if source.expression_names[:ARKIT_COUNT] != ARKIT_NAMES:
        raise InputError(
            "The source's track does not begin with the 52 ARKit coefficients. "
            "Capture its clip again."
        )
    config = for_avatar(config, avatar)
    states = track_states(source, frames)
    seen = source.states()[source.valid.bool()]
    rest = avatar.rest
    expression = torch.zeros(len(states), rest.expression.shape[-1], dtype=rest.expression.dtype)
    expression[:, :ARKIT_COUNT] = _retargeted_weights(states, seen, avatar, config)
    gaze = rest.gaze + limited_gaze(states.gaze - seen.gaze.median(0).values, config)
    T_world_head = _retargeted_poses(
        states.T_world_head, seen.T_world_head, rest.T_world_head, config.head, config.translation
    )
    R_rest = rest.T_world_head[:3, :3]
    T_world_head[:, :3, :3] = R_rest @ limited_turns(R_rest.T @ T_world_head[:, :3, :3], config)
    T_world_torso = _retargeted_poses(
        states.T_world_torso,
        seen.T_world_torso,
        rest.T_world_torso,
        config.torso,
        config.translation,
    )
    return HeadState(expression, gaze, T_world_head, T_world_torso)


def _retargeted_weights(
    states: HeadState, seen: HeadState, avatar: Avatar, config: RetargetConfig
) -> Tensor:
    """Return coefficients [F, 52]: the way out of neutral, scaled to the avatar's range."""
    names = slice(0, ARKIT_COUNT)
    used = seen.expression[:, names]
    # The neutral of a coefficient is where it usually rests. Its lower decile is that for a blink
    # and for speech alike, where a mean would count the open mouth in.
    neutral = torch.quantile(used, 0.1, dim=0)
    source_reach = torch.quantile(used, 0.98, dim=0) - neutral
    return retargeted_weights(states.expression[:, names], neutral, source_reach, avatar, config)


def _retargeted_poses(
    T: Tensor, T_seen: Tensor, T_rest: Tensor, turn: float, translation: float
) -> Tensor:
    """Return poses [F, 4, 4]: the motion of T relative to the mean of T_seen, put on T_rest.

    The mean rotation is the chordal one: the rotation nearest to the mean matrix.
    """
    R_mean = roma.special_procrustes(T_seen[:, :3, :3].mean(0))
    assert isinstance(R_mean, Tensor)
    T_mean = rigid(R_mean, T_seen[:, :3, 3].mean(0))
    motion = invert_rigid(T_mean) @ T
    R = rotvec_to_matrix(turn * matrix_to_rotvec(motion[:, :3, :3]))
    return T_rest @ rigid(R, translation * motion[:, :3, 3])


def _check_own(track: Track, avatar: Avatar, place: str) -> None:
    """Refuse a track whose coefficients are not the avatar's."""
    if track.expression_names != avatar.expression_names:
        raise InputError(
            f"The track of {place} has {len(track.expression_names)} expression coefficients, other "
            f"than the avatar's {len(avatar.expression_names)}. It was tracked again since; train the "
            "avatar again."
        )


def _check_frames(frames: tuple[int, int], total: int, place: str) -> None:
    """Refuse a range that is empty or leaves what there is."""
    first, last = frames
    if not 0 <= first < last <= total:
        raise InputError(
            f"{place} has {total} frames; the part from frame {first} up to {last} does not lie in it. "
            f"Choose a part within 0 and {total}."
        )


def _track_source(
    driver: TrackDriver | RetargetedTrackDriver, audio: Path | None, frames: tuple[int, int] | None
) -> Source:
    start = 0.0 if frames is None else frames[0] / driver.fps
    return Source(driver, len(driver), audio, start)
