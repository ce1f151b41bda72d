"""Videos and contact sheets: what is written is read back, errors leave nothing behind."""

from __future__ import annotations

import shutil
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from avatar.checks import InputError
from avatar.export.video import VideoWriter, contact_sheet, write_video

RATE = 16_000


def read_video(path: Path) -> tuple[np.ndarray, float]:
    """All frames uint8 [F, H, W, 3] and the frame rate."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(pictures), float(stream.average_rate)


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """Mono samples from time 0 of the file, and their rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        first = round(float(frames[0].time or 0) * stream.rate)
        samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        return np.pad(samples, (first, 0)) if first > 0 else samples[-first:], stream.rate


def colour_bars(height: int = 48, width: int = 64) -> np.ndarray:
    colours = np.array(
        [[255, 255, 255], [200, 40, 40], [40, 180, 60], [40, 60, 200], [224, 172, 140], [0, 0, 0]],
        np.uint8,
    )
    columns = colours[np.arange(width) * len(colours) // width]
    return np.broadcast_to(columns, (height, width, 3)).copy()


def write_wav(path: Path, samples: np.ndarray, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def clicks(seconds: float, times: list[float]) -> np.ndarray:
    """Silence with a burst of 1 kHz, 20 ms long, at each time."""
    samples = np.zeros(round(seconds * RATE))
    t = np.arange(round(0.02 * RATE)) / RATE
    for time in times:
        at = round(time * RATE)
        samples[at : at + len(t)] = 0.8 * np.sin(2 * np.pi * 1000 * t)
    return samples


def onset_s(samples: np.ndarray, rate: int) -> float:
    return int(np.argmax(np.abs(samples) > 0.3)) / rate


def test_frames_come_back_with_their_colours_in_order(tmp_path: Path) -> None:
    bars = colour_bars()
    frames = [np.roll(bars, 8 * i, axis=1) for i in range(7)]
    write_video(tmp_path / "out.mp4", frames, 25)
    back, fps = read_video(tmp_path / "out.mp4")
    assert back.shape == (7, 48, 64, 3)
    assert fps == 25
    # In the middle of a bar, away from the edges where 4:2:0 mixes colours, the mean over the rows
    # is off by up to 8 levels (blue in a narrow red bar); a mix-up of BT.601 and BT.709 by 23
    # (green).
    middle = np.zeros((64,), bool)
    middle[[4 + 64 * k // 6 for k in range(6)]] = True
    for i in range(7):
        columns = np.roll(middle, 8 * i)
        error = np.abs(back[i][:, columns].astype(int) - frames[i][:, columns]).mean(0)
        assert error.max() <= 12, i


def test_the_file_is_tagged_and_plays_while_it_loads(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write_video(path, [colour_bars()] * 3, 30000 / 1001)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (1, 1)
        assert (stream.average_rate.numerator, stream.average_rate.denominator) == (30000, 1001)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(("height", "width"), [(33, 47), (32, 47), (33, 48)])
def test_odd_sizes_are_padded_by_a_pixel(tmp_path: Path, height: int, width: int) -> None:
    picture = colour_bars(height, width)
    write_video(tmp_path / "out.mp4", [picture], 25)
    back, _ = read_video(tmp_path / "out.mp4")
    assert back.shape == (1, height + height % 2, width + width % 2, 3)
    assert np.abs(back[0, :height, 2].astype(int) - picture[:, 2]).mean() <= 4


def test_sound_starts_where_the_frames_start(tmp_path: Path) -> None:
    wav = write_wav(tmp_path / "voice.wav", clicks(6, [2.5]))
    write_video(tmp_path / "out.mp4", [colour_bars()] * 50, 25, audio=wav, audio_start_s=1.6)
    samples, rate = read_sound(tmp_path / "out.mp4")
    # 5 ms: AAC spreads an onset over a short block (128 samples of 48 kHz) before it.
    assert onset_s(samples, rate) == pytest.approx(0.9, abs=5e-3)
    # Cut to the video's 2 s but for the last AAC frame of 1024 samples.
    assert 2 <= len(samples) / rate <= 2 + 1024 / rate


def test_short_sound_is_padded_and_a_start_before_it_is_silence(tmp_path: Path) -> None:
    wav = write_wav(tmp_path / "voice.wav", clicks(0.5, [0.25]))
    write_video(tmp_path / "out.mp4", [colour_bars()] * 50, 25, audio=wav, audio_start_s=-1)
    samples, rate = read_sound(tmp_path / "out.mp4")
    assert onset_s(samples, rate) == pytest.approx(1.25, abs=5e-3)
    assert len(samples) / rate >= 2
    assert np.abs(samples[round(1.6 * rate) :]).max() < 0.01


def test_sound_is_taken_from_a_clip_in_stereo(tmp_path: Path) -> None:
    left, right = clicks(2, [0.5]), np.zeros(2 * RATE)
    wav = write_wav(tmp_path / "voice.wav", np.stack([left, right], -1).reshape(-1), channels=2)
    write_video(tmp_path / "clip.mp4", [colour_bars()] * 50, 25, audio=wav)
    write_video(
        tmp_path / "out.mp4",
        [colour_bars()] * 40,
        25,
        audio=tmp_path / "clip.mp4",
        audio_start_s=0.2,
    )
    samples, rate = read_sound(tmp_path / "out.mp4")
    # Two generations of AAC.
    assert onset_s(samples, rate) == pytest.approx(0.3, abs=8e-3)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].channels == 2


def test_a_sound_file_that_has_none_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    write_video(tmp_path / "mute.mp4", [colour_bars()], 25)
    (tmp_path / "text.wav").write_text("not a sound")
    cases = {"mute.mp4": "has no sound", "text.wav": "cannot be read", "no.wav": "cannot be read"}
    for name, message in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            write_video(tmp_path / "out.mp4", [colour_bars()], 25, audio=tmp_path / name)
        assert name in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mute.mp4", "text.wav"]


def failing_pictures() -> Iterator[np.ndarray]:
    yield colour_bars()
    raise FileNotFoundError("a frame is missing")


def test_an_error_in_the_block_is_told_as_it_is_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    with pytest.raises(FileNotFoundError, match="a frame is missing"):
        write_video(path, failing_pictures(), 25)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[np.ndarray]:
        yield colour_bars()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "out.mp4", interrupted(), 25)
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out\.mp4 would have no frame"):
        write_video(tmp_path / "out.mp4", [], 25)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing/out\.mp4 cannot be written"):
        write_video(tmp_path / "missing" / "out.mp4", [colour_bars()], 25)
    (tmp_path / "taken.mp4").mkdir()
    with pytest.raises(InputError, match=r"taken\.mp4 cannot be written"):
        write_video(tmp_path / "taken.mp4", [colour_bars()], 25)
    assert [p.name for p in tmp_path.iterdir()] == ["taken.mp4"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB; skipped where the user may not mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None:
        pytest.skip("needs mount to make a small disk")
    command = [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run([unmount, str(folder)], check=True)


def test_a_full_disk_is_told_and_the_temporary_removed(small_disk: Path) -> None:
    generator = np.random.default_rng(0)
    noise = (generator.integers(0, 256, (128, 128, 3), np.uint8) for _ in range(60))
    with pytest.raises(InputError, match=r"out\.mp4 cannot be written .*[Ss]pace"):
        write_video(small_disk / "out.mp4", noise, 25)
    assert list(small_disk.iterdir()) == []


def test_frames_of_another_size_or_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one size"):
        write_video(tmp_path / "out.mp4", [colour_bars(), colour_bars(50)], 25)
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "out.mp4", [colour_bars().astype(np.float32)], 25)
    with pytest.raises(ValueError, match="fps"):
        VideoWriter(tmp_path / "out.mp4", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_contact_sheet_shows_every_picture_and_its_labels() -> None:
    red = np.full((30, 40, 3), (200, 0, 0), np.uint8)
    blue = np.full((60, 40, 3), (0, 0, 200), np.uint8)
    sheet = contact_sheet([[red, blue], [blue]], ["held out", "avatar"], ["frame 3", "frame 9"])
    assert sheet.dtype == np.uint8
    reds, blues = ((sheet == colour).all(-1) for colour in ((200, 0, 0), (0, 0, 200)))
    assert int(reds.sum()) == 240 * 180
    assert int(blues.sum()) == 2 * 240 * 360
    # The labels are dark ink left of the pictures and above them.
    ink = sheet.max(-1) < 80
    left = np.flatnonzero(reds.any(0))[0]
    top = np.flatnonzero(reds.any(1))[0]
    assert ink[top:, :left].sum() > 50
    assert ink[:top, left:].sum() > 50


def test_a_contact_sheet_without_columns_or_with_wrong_labels() -> None:
    picture = colour_bars()
    assert contact_sheet([[picture]], [""], cell_width=64).shape[1] < 100
    with pytest.raises(ValueError, match="one label a row"):
        contact_sheet([[picture]], [])
    with pytest.raises(ValueError, match="picture"):
        contact_sheet([[]], [""])
