"""Pictures and videos with transparency: decoded by FFmpeg, laid over colours, compared."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from test_export_video import clicks, onset_s, write_wav

from avatar.checks import InputError
from avatar.export.alpha_video import ALPHA_CODECS, AlphaVideoWriter, carried_on
from avatar.export.render import camera_path, render_cutouts, render_states
from avatar.types import HeadState

SUFFIXES = tuple(ALPHA_CODECS)


def needs_encoder(suffix: str) -> None:
    if ALPHA_CODECS[suffix].encoder not in av.codecs_available:
        pytest.skip(f"this PyAV has no {ALPHA_CODECS[suffix].encoder}")


def decoded(path: Path) -> np.ndarray:
    """All frames uint8 [F, H, W, 4]. VP9's alpha is decoded by libvpx alone, as side data."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoder = stream.codec_context
        if path.suffix == ".webm":
            assert stream.metadata["alpha_mode"] == "1"  # what browsers go by
            decoder = av.CodecContext.create("libvpx-vp9", "r")
        frames = []
        for packet in container.demux(stream):
            frames += decoder.decode(packet if packet.size else None)
        assert all(frame.format.name.startswith("yuva") for frame in frames)
        return np.stack([frame.to_ndarray(format="rgba") for frame in frames])


def over(picture: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    alpha = picture[..., 3:].astype(np.float64) / 255
    return picture[..., :3] * alpha + 255 * np.array(colour) * (1 - alpha)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def talking(avatar, frames: int) -> list[HeadState]:
    rest, states = avatar.rest, []
    for i in range(frames):
        expression = torch.zeros_like(rest.expression)
        expression[17] = i / max(1, frames - 1)
        states.append(HeadState(expression, rest.gaze, rest.T_world_head, rest.T_world_torso))
    return states


@pytest.fixture
def cutouts(tiny_avatar) -> list[np.ndarray]:
    path = camera_path("front", tiny_avatar, (160, 128))
    return list(render_cutouts(tiny_avatar, talking(tiny_avatar, 6), path))


@pytest.mark.parametrize("colour", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.0, 0.8, 0.2)])
def test_a_cutout_over_a_colour_is_the_picture_on_that_colour(
    tiny_avatar, cutouts: list[np.ndarray], colour: tuple[float, float, float]
) -> None:
    path = camera_path("front", tiny_avatar, (160, 128))
    direct = render_states(tiny_avatar, talking(tiny_avatar, 6), path, background=colour)
    for cutout, picture in zip(cutouts, direct, strict=True):
        assert cutout.dtype == np.uint8
        # Two roundings, of colour and alpha. Colours beyond [0, 1] are clamped before they are mixed,
        # where the picture on a colour clamps the mixture.
        inside = (cutout[..., :3] > 0).all(2) & (cutout[..., :3] < 255).all(2)
        assert inside.sum() > 500
        assert np.abs(over(cutout, colour) - picture)[inside].max() <= 1.6
        assert (cutout[cutout[..., 3] == 0] == 0).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_videos_keep_transparency_and_colours(
    tmp_path: Path, suffix: str, cutouts: list[np.ndarray]
) -> None:
    needs_encoder(suffix)
    path = tmp_path / f"me{suffix}"
    with AlphaVideoWriter(path, 25) as video:
        for cutout in cutouts:
            video.write(cutout)
    back = decoded(path)
    assert back.shape == (6, 128, 160, 4)
    for cutout, frame in zip(cutouts, back, strict=True):
        assert cutout[..., 3].min() == 0
        assert cutout[..., 3].max() > 200
        assert psnr(frame[..., 3], cutout[..., 3]) >= 35
        for colour in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.2, 0.2, 0.9)):
            assert psnr(over(frame, colour), over(cutout, colour)) >= 30
    assert psnr(back[0], back[-1]) < 60  # it moves
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_edge_does_not_darken(tmp_path: Path, suffix: str) -> None:
    """A bright disc on nothing: mixed with the black of nothing, its rim would turn grey."""
    needs_encoder(suffix)
    y, x = np.mgrid[:96, :96]
    alpha = np.clip(30.5 - np.hypot(x - 48, y - 48), 0, 1)
    disc = np.zeros((96, 96, 4), np.uint8)
    disc[..., 3] = np.round(alpha * 255)
    disc[alpha > 0, :3] = (240, 200, 60)
    path = tmp_path / f"disc{suffix}"
    with AlphaVideoWriter(path, 25) as video:
        for _ in range(3):
            video.write(disc)
    frame = decoded(path)[0]
    rim = (disc[..., 3] > 128) & (np.hypot(x - 48, y - 48) > 26)
    assert np.abs(frame[rim][:, :3].astype(int) - [240, 200, 60]).mean(0).max() <= 6
    assert np.abs(frame[..., 3].astype(int) - disc[..., 3]).mean() <= 2


def test_colours_are_carried_on_only_where_nothing_is() -> None:
    picture = np.zeros((40, 40, 4), np.uint8)
    picture[10:30, 10:30] = (200, 100, 50, 255)
    spread = carried_on(picture)
    np.testing.assert_array_equal(spread[..., 3], picture[..., 3])
    np.testing.assert_array_equal(spread[10:30, 10:30], picture[10:30, 10:30])
    assert np.abs(spread[8, 20, :3].astype(int) - [200, 100, 50]).max() <= 1
    assert (spread[0, 0, :3] == 0).all()  # too far for any encoder to mix


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sound_goes_along(tmp_path: Path, suffix: str) -> None:
    needs_encoder(suffix)
    wav = write_wav(tmp_path / "voice.wav", clicks(3, [1.5]))
    path = tmp_path / f"me{suffix}"
    with AlphaVideoWriter(path, 25, audio=wav, audio_start_s=1.0) as video:
        for _ in range(30):
            video.write(np.full((32, 48, 4), 128, np.uint8))
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        first = round(float(frames[0].time or 0) * stream.rate)
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=stream.rate)
        sound = [part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)]
    samples = np.pad(np.concatenate(sound), (max(0, first), 0))
    assert onset_s(samples, stream.rate) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_odd_sizes_and_errors(tmp_path: Path, suffix: str) -> None:
    needs_encoder(suffix)
    path = tmp_path / f"me{suffix}"
    with AlphaVideoWriter(path, 30000 / 1001) as video:
        video.write(np.full((33, 47, 4), 200, np.uint8))
    assert decoded(path).shape == (1, 34, 48, 4)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), AlphaVideoWriter(path, 25) as video:
        video.write(np.zeros((32, 32, 4), np.uint8))
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="H, W, 4"), AlphaVideoWriter(path, 25) as video:
        video.write(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="one size"), AlphaVideoWriter(path, 25) as video:
        video.write(np.zeros((32, 32, 4), np.uint8))
        video.write(np.zeros((32, 34, 4), np.uint8))
    with pytest.raises(InputError, match="no frame"), AlphaVideoWriter(path, 25):
        pass
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_other_suffixes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.webm"), AlphaVideoWriter(tmp_path / "me.avi", 25):
        pass
