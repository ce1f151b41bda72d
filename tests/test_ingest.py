"""Clips of every kind become upright 8-bit frames at a constant rate; what is no clip is refused."""

from __future__ import annotations

import struct
import wave
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avatar.checks import InputError
from capture.colour import tone_map
from capture.ingest import (
    AUDIO_RATE,
    IngestConfig,
    extract_audio,
    frame_rate,
    probe,
    read_frames,
)


def write_clip(
    path: Path,
    pictures: Iterable[np.ndarray],
    *,
    fps: int = 25,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv444p",
    options: dict[str, str] | None = None,
    tags: dict[str, int] | None = None,
    aspect: Fraction | None = None,
    sound: np.ndarray | None = None,
    sound_start_s: float = 0.0,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write RGB pictures [H, W, 3] (uint8, or uint16 for more than 8 bits) as a clip.

    ``times`` gives every picture's time in seconds; ``sound`` is int16 mono at 48 kHz.
    """
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = None
        audio = None
        for index, picture in enumerate(pictures):
            if stream is None:
                stream = container.add_stream(codec, rate=fps, options=options or {"crf": "12"})
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = pixel_format
                stream.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, fps)
                if aspect:
                    stream.sample_aspect_ratio = aspect
                for name, value in (tags or {}).items():
                    setattr(stream.codec_context, name, value)
                if sound is not None:
                    audio = container.add_stream("aac", rate=48000, layout="mono")
            kind = "rgb24" if picture.dtype == np.uint8 else "rgb48le"
            frame = av.VideoFrame.from_ndarray(picture, format=kind)
            matrix = {9: 9, 1: 1}.get((tags or {}).get("colorspace", 5), 5)
            frame = frame.reformat(
                format=pixel_format,
                dst_colorspace=matrix,
                dst_color_range=(tags or {}).get("color_range", 1),
                interpolation="LANCZOS",
            )
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            frame.pts = round(times[index] * 1000) if times else index
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        assert stream is not None
        container.mux(stream.encode(None))
        if audio is not None and sound is not None:
            for start in range(0, len(sound), 1024):
                block = sound[start : start + 1024].reshape(1, -1)
                part = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
                part.sample_rate = 48000
                part.pts = round(sound_start_s * 48000) + start
                part.time_base = Fraction(1, 48000)
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))
    return path


def numbered(count: int, width: int = 320, height: int = 256) -> list[np.ndarray]:
    """Pictures whose grey level tells their number (5 levels apart, from 20)."""
    return [np.full((height, width, 3), 20 + 5 * k, np.uint8) for k in range(count)]


def numbers(frames: Iterable[np.ndarray]) -> list[int]:
    """What ``numbered`` pictures they are."""
    return [round((float(frame.mean()) - 20) / 5) for frame in frames]


def quadrants(width: int, height: int) -> np.ndarray:
    """Red top left, green top right, blue bottom left, white bottom right."""
    picture = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    picture[:h, :w], picture[:h, w:] = (220, 30, 30), (30, 200, 30)
    picture[h:, :w], picture[h:, w:] = (30, 30, 220), (235, 235, 235)
    return picture


def corner_names(picture: np.ndarray) -> str:
    """Colours of the corners: top left, top right, bottom left, bottom right."""
    h, w = picture.shape[:2]
    names = ""
    for y, x in (
        (h // 4, w // 4),
        (h // 4, 3 * w // 4),
        (3 * h // 4, w // 4),
        (3 * h // 4, 3 * w // 4),
    ):
        pixel = picture[y, x].astype(int)
        names += "w" if pixel.min() > 150 else "rgb"[int(pixel.argmax())]
    return names


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Overwrite the rotation part of the first track's tkhd matrix in an mp4 (ISO 14496-12)."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4
    assert content[at] == 0, "version 0 of the box is what PyAV writes"
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    content[at + 40 : at + 76] = matrix
    path.write_bytes(content)


def test_every_frame_comes_out_once_and_in_order(tmp_path: Path) -> None:
    clip = probe(write_clip(tmp_path / "a.mp4", numbered(40)))
    assert (clip.frames, clip.fps, clip.variable_rate) == (40, 25.0, False)
    assert (clip.width, clip.height, clip.rotation) == (320, 256, 0)
    assert numbers(read_frames(clip)) == list(range(40))


def test_b_frames_and_matroska_keep_the_order(tmp_path: Path) -> None:
    options = {"crf": "12", "bf": "3", "g": "12"}
    clip = probe(write_clip(tmp_path / "a.mkv", numbered(40), fps=30, options=options))
    assert clip.fps == pytest.approx(30)
    assert numbers(read_frames(clip)) == list(range(40))


def test_odd_sizes_become_even(tmp_path: Path) -> None:
    clip = probe(write_clip(tmp_path / "a.mp4", numbered(40, 321, 257)))
    assert (clip.source_width, clip.source_height) == (321, 257)
    frames = list(read_frames(clip))
    assert {frame.shape for frame in frames} == {(256, 320, 3)}
    assert {frame.dtype for frame in frames} == {np.dtype(np.uint8)}


def test_large_frames_are_scaled_to_the_longer_side_and_small_ones_never_up(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(40, 640, 360))
    clip = probe(path, IngestConfig(max_side=320))
    assert (clip.width, clip.height) == (320, 180)
    assert next(read_frames(clip)).shape == (180, 320, 3)
    assert probe(path, IngestConfig(max_side=4000)).width == 640


@pytest.mark.parametrize(
    ("matrix", "corners", "rotation"),
    [
        ((1, 0, 0, 1), "rgbw", 0),
        ((0, 1, -1, 0), "brwg", 270),  # turned clockwise by 90 degrees, as phones write portrait
        ((-1, 0, 0, -1), "wbgr", 180),
        ((0, -1, 1, 0), "gwrb", 90),
        ((-1, 0, 0, 1), "grwb", 0),  # mirrored
        ((0, 1, 1, 0), "rbgw", 270),  # turned and mirrored: transposed
    ],
)
def test_the_display_matrix_is_applied(
    tmp_path: Path, matrix: tuple[int, int, int, int], corners: str, rotation: int
) -> None:
    path = write_clip(tmp_path / "a.mp4", [quadrants(320, 256)] * 40)
    set_display_matrix(path, *matrix)
    clip = probe(path)
    frame = next(read_frames(clip))
    assert corner_names(frame) == corners
    assert frame.shape == ((320, 256, 3) if matrix[0] == 0 else (256, 320, 3))
    assert frame.shape == (clip.height, clip.width, 3)
    if matrix[0] * matrix[3] - matrix[1] * matrix[2] > 0:
        assert (clip.rotation, clip.mirrored) == (rotation, False)
    else:
        assert clip.mirrored


def test_a_mirrored_clip_is_flipped_back_on_request(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", [quadrants(320, 256)] * 40)
    clip = probe(path, IngestConfig(mirrored=True))
    assert clip.mirrored
    assert "flipped left to right" in clip.summary
    assert corner_names(next(read_frames(clip))) == "grwb"
    set_display_matrix(path, 0, 1, -1, 0)  # portrait: flipped as it is seen, after it was turned
    assert corner_names(next(read_frames(probe(path)))) == "brwg"
    assert corner_names(next(read_frames(probe(path, IngestConfig(mirrored=True))))) == "rbgw"
    set_display_matrix(path, -1, 0, 0, 1)  # the matrix flips already: both together do nothing
    twice = probe(path, IngestConfig(mirrored=True))
    assert not twice.mirrored
    assert corner_names(next(read_frames(twice))) == "rgbw"


def test_non_square_pixels_are_made_square(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(40, 300, 400), aspect=Fraction(4, 3))
    clip = probe(path)
    assert (clip.width, clip.height) == (400, 400)
    assert next(read_frames(clip)).shape == (400, 400, 3)


def test_dropped_frames_are_repeated_so_that_time_stays_right(tmp_path: Path) -> None:
    kept = [k for k in range(45) if k not in (10, 11, 30)]
    pictures = numbered(45)
    path = write_clip(tmp_path / "a.mp4", [pictures[k] for k in kept], times=[k / 25 for k in kept])
    clip = probe(path)
    assert clip.variable_rate
    assert (clip.fps, clip.frames) == (25.0, 45)
    found = numbers(read_frames(clip))
    assert len(found) == 45
    assert all(abs(a - b) <= 1 for a, b in zip(found, range(45), strict=True))
    assert [k for k in found if k in (10, 11, 30)] == []


def test_uneven_times_go_onto_a_grid_by_the_nearest_frame(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    times = np.round(np.cumsum(rng.uniform(0.02, 0.09, 40)), 3)
    times -= times[0]
    clip = probe(write_clip(tmp_path / "a.mkv", numbered(40), times=list(times)))
    assert clip.variable_rate
    average = 39 / (times[-1] - times[0])
    assert clip.fps == pytest.approx(average, rel=0.02)
    grid = np.arange(clip.frames) / clip.fps
    nearest = [int(np.abs(times - t).argmin()) for t in grid]
    found = numbers(read_frames(clip))
    # A tie, or a time stamp rounded to the container's millisecond, may go either way.
    assert sum(a != b for a, b in zip(found, nearest, strict=True)) <= 1


@pytest.mark.parametrize(("rate", "kept"), [(50, 25), (60, 30), (30, 30), (120, 40)])
def test_high_rates_are_thinned(tmp_path: Path, rate: int, kept: int) -> None:
    clip = probe(write_clip(tmp_path / "a.mp4", numbered(40), fps=rate))
    step = rate // kept
    assert clip.fps == pytest.approx(kept)
    assert numbers(read_frames(clip)) == list(range(0, 40, step))


def test_a_high_rate_is_kept_on_request(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(40), fps=60)
    assert probe(path, IngestConfig(max_fps=60)).frames == 40


def test_max_frames_cuts_the_clip(tmp_path: Path) -> None:
    clip = probe(write_clip(tmp_path / "a.mp4", numbered(40)), IngestConfig(max_frames=25))
    assert numbers(read_frames(clip)) == list(range(25))


@pytest.mark.parametrize(
    ("times", "fps", "variable"),
    [
        ([k / 30 for k in range(60)], 30.0, False),
        ([round(k * 1001 / 30000, 3) for k in range(900)], 30000 / 1001, False),
        ([k * 1001 / 24000 for k in range(200)], 24000 / 1001, False),
        ([k / 25 for k in range(60) if k % 20 != 7], 25.0, True),
        ([k / 17 for k in range(60)], 17.0, False),
    ],
)
def test_frame_rate_of_time_stamps(times: list[float], fps: float, variable: bool) -> None:
    rate, varies = frame_rate(np.array(times))
    assert rate == pytest.approx(fps, rel=1e-6)
    assert varies == variable


@pytest.mark.parametrize(
    ("pixel_format", "tags"),
    [
        ("yuv420p", {}),
        ("yuv444p", {"color_range": 2}),
        ("yuv420p", {"color_range": 2, "colorspace": 1}),
        ("yuv444p", {"colorspace": 1, "color_range": 1}),
        ("yuv420p10le", {"colorspace": 1, "color_range": 1}),
        ("yuv422p10le", {"color_range": 2}),
    ],
)
def test_colours_survive_range_matrix_and_depth(
    tmp_path: Path, pixel_format: str, tags: dict[str, int]
) -> None:
    picture = quadrants(320, 256)
    path = write_clip(tmp_path / "a.mp4", [picture] * 40, pixel_format=pixel_format, tags=tags)
    clip = probe(path)
    assert clip.pixel_format.replace("yuvj", "yuv") == pixel_format
    frame = next(read_frames(clip)).astype(int)
    for y, x in ((64, 80), (64, 240), (192, 80), (192, 240)):
        # 8-bit YCbCr rounds by up to 2 levels, compression at crf 12 by about 2 more; a wrong
        # range is off by 16, a wrong matrix by 20 and more.
        assert np.abs(frame[y, x] - picture[y, x]).max() <= 5


def test_hlg_is_tone_mapped_to_bright_but_unclipped_sdr(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 320).astype(np.uint16)
    picture = np.repeat(np.repeat(ramp[None, :, None], 256, 0), 3, 2)
    tags = {"colorspace": 9, "color_range": 1, "color_trc": 18, "color_primaries": 9}
    path = write_clip(tmp_path / "a.mp4", [picture] * 40, pixel_format="yuv420p10le", tags=tags)
    clip = probe(path)
    assert clip.hdr
    row = next(read_frames(clip))[128].astype(int)
    assert np.abs(row - row[:, :1]).max() <= 3, "grey stays grey"
    level = row.mean(axis=1)
    assert (np.diff(level) >= -2).all(), "brighter in, brighter out (2 levels of coding noise)"
    assert level[2] <= 3
    # ITU-R BT.2408: reference white is at 75 % of HLG, mid grey (18 %) at 38 %.
    assert 215 <= level[240] <= 245
    assert 90 <= level[122] <= 140
    assert level[-1] >= 250


def test_pq_is_tone_mapped_by_absolute_light(tmp_path: Path) -> None:
    # SMPTE ST 2084: 58.06 % of the code is 203 cd/m2, reference white; 75.2 % is 1000 cd/m2.
    codes = np.repeat([0.0, 0.5806, 0.752, 1.0], 80) * 65535
    picture = np.repeat(np.repeat(codes.astype(np.uint16)[None, :, None], 256, 0), 3, 2)
    tags = {"colorspace": 9, "color_range": 1, "color_trc": 16, "color_primaries": 9}
    path = write_clip(tmp_path / "a.mp4", [picture] * 40, pixel_format="yuv420p10le", tags=tags)
    clip = probe(path)
    assert clip.hdr
    black, white, bright, brightest = next(read_frames(clip))[128, 40::80].mean(1)
    assert black <= 3
    assert 215 <= white <= 245
    assert white + 8 <= bright <= brightest
    assert brightest >= 250


def test_tone_mapping_in_bands_is_that_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    tall = rng.integers(0, 65536, (700, 333, 3), np.uint16)
    rows = np.concatenate([tone_map(row[None], pq=False) for row in tall])
    assert (tone_map(tall, pq=False) == rows).all()


def test_what_a_phone_writes_comes_out_upright_even_and_in_sdr(tmp_path: Path) -> None:
    """HEVC of 10 bits in HLG, 60 frames/s with jitter and a gap, turned by 90 degrees."""
    rng = np.random.default_rng(5)
    shown = [k for k in range(90) if k not in (31, 32, 33, 70)]
    times = [round(k / 60 + rng.uniform(-0.002, 0.002) * (k > 0), 3) for k in shown]
    pictures = [np.full((256, 320, 3), 12000 + 300 * k, np.uint16) for k in shown]
    tags = {"colorspace": 9, "color_range": 1, "color_trc": 18, "color_primaries": 9}
    path = write_clip(
        tmp_path / "a.mov", pictures, times=times, codec="libx265", pixel_format="yuv420p10le",
        tags=tags, options={"crf": "8", "preset": "ultrafast", "x265-params": "log-level=error"},
    )  # fmt: skip
    set_display_matrix(path, 0, 1, -1, 0)
    clip = probe(path)
    assert (clip.codec, clip.pixel_format, clip.rotation) == ("hevc", "yuv420p10le", 270)
    assert clip.hdr
    assert clip.variable_rate
    assert (clip.width, clip.height) == (256, 320)
    assert clip.fps == pytest.approx(30, rel=0.01)
    assert "frames/s (every 2nd kept)" in clip.summary
    assert "HDR, tone-mapped" in clip.summary
    assert "variable frame rate" in clip.summary
    frames = list(read_frames(clip))
    assert len(frames) == clip.frames == 45
    level = np.array([frame.mean() for frame in frames])
    assert {frame.shape for frame in frames} == {(320, 256, 3)}
    assert (np.diff(level) > -1).all(), "later pictures are brighter"
    assert level[-1] > level[0] + 60
    # Frame 16 of the grid lies in the gap: it shows the picture before it or after it.
    assert level[15] - 1 <= level[16] <= level[17] + 1


@pytest.mark.parametrize("pq", [False, True])
def test_tone_mapping_keeps_black_white_and_hue(pq: bool) -> None:
    picture = np.zeros((1, 3, 3), np.uint16)
    picture[0, 1] = 65535
    picture[0, 2] = (45000, 20000, 20000)
    black, white, red = tone_map(picture, pq=pq)[0].astype(int)
    assert black.max() == 0
    assert white.min() >= 250
    assert red[0] > max(red[1], red[2]) + 60


def click_track(seconds: float, at: float) -> np.ndarray:
    """Silence, int16 at 48 kHz, with 50 ms of a 1 kHz tone at ``at`` seconds."""
    sound = np.zeros(round(seconds * 48000), np.int16)
    t = np.arange(2400) / 48000
    start = round(at * 48000)
    sound[start : start + 2400] = (12000 * np.sin(2 * np.pi * 1000 * t)).astype(np.int16)
    return sound


def read_wave(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        assert file.getframerate() == AUDIO_RATE
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


@pytest.mark.parametrize("delay_s", [0.0, 0.4])
def test_sound_stays_in_step_with_the_frames(tmp_path: Path, delay_s: float) -> None:
    sound = click_track(1.6, 0.8)
    path = write_clip(tmp_path / "a.mkv", numbered(40), sound=sound, sound_start_s=delay_s)
    clip = probe(path)
    assert clip.has_audio
    wav = tmp_path / "a.wav"
    assert extract_audio(path, wav, start_s=clip.start_s, duration_s=clip.frames / clip.fps)
    samples = read_wave(wav)
    assert len(samples) == round(40 / 25 * AUDIO_RATE)
    loud = np.flatnonzero(np.abs(samples.astype(int)) > 4000)
    # AAC spreads a click over a block of 1024 samples at 48 kHz: 21 ms.
    assert loud[0] / AUDIO_RATE == pytest.approx(0.8 + delay_s, abs=0.022)


def test_a_clip_without_sound_gives_no_wave_file(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(40))
    assert not probe(path).has_audio
    assert not extract_audio(path, tmp_path / "a.wav")
    assert not (tmp_path / "a.wav").exists()


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    short = path.with_name("cut_" + path.name)
    short.write_bytes(content[: int(len(content) * share)])
    return short


QUICK = {"crf": "35", "preset": "ultrafast"}


def noise(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (256, 320, 3), np.uint8) for _ in range(count)]


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_a_clip_cut_off_in_the_middle_gives_what_there_is(tmp_path: Path, container: str) -> None:
    options = {"movflags": "faststart"} if container == "mp4" else {}
    path = write_clip(
        tmp_path / f"a.{container}", noise(90), options=QUICK, container_options=options
    )
    clip = probe(cut(path, 0.7))
    count = sum(1 for _ in read_frames(clip))
    assert 40 <= count < 90


def test_mp4_cut_before_its_index_says_so(tmp_path: Path) -> None:
    path = cut(write_clip(tmp_path / "a.mp4", noise(45), options=QUICK), 0.5)
    with pytest.raises(InputError, match="cut off before its index"):
        probe(path)


def make_bad(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is no video\n" * 100)
    elif kind == "picture":
        path = folder / "picture.png"
        cv2.imwrite(str(path), quadrants(320, 256))
    elif kind == "sound":
        path = folder / "sound.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(np.zeros(16000, np.int16).tobytes())
    elif kind == "one frame":
        write_clip(path, numbered(1))
    elif kind == "short":
        write_clip(path, numbered(12))
    elif kind == "small":
        write_clip(path, numbered(40, 160, 120))
    elif kind == "slow":
        write_clip(path, numbered(40), fps=2)
    elif kind == "playlist":
        path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    elif kind == "script":
        path.write_text("ffconcat version 1.0\nfile '/etc/hostname'\n")
    return path


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("empty", "is empty"),
        ("text", "is not a video"),
        ("picture", "is a single picture"),
        ("sound", "has only sound"),
        ("one frame", "has 1 frame; a capture needs at least 40"),
        ("short", "has 12 frames"),
        ("small", "is 160x120 pixels, which is too small"),
        ("slow", "has 2 frames a second"),
        ("playlist", "is not a video"),
        ("script", "is not a video"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(tmp_path: Path, kind: str, sentence: str) -> None:
    path = make_bad(kind, tmp_path)
    with pytest.raises(InputError, match=sentence) as caught:
        probe(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")


FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def survives(path: Path) -> None:
    """Anything may be refused with an InputError, or be read without any error."""
    try:
        clip = probe(path, IngestConfig(max_frames=25))
        frames = [frame.shape for frame in read_frames(clip)]
        assert set(frames) <= {(clip.height, clip.width, 3)}
        extract_audio(path, path.with_suffix(".wav"), duration_s=1.0)
    except InputError as error:
        assert str(path) in str(error)


@FUZZ
@given(content=st.binary(min_size=1, max_size=400), start=st.sampled_from([b"", b"\x00\x00\x00\x18ftypisom", b"\x1aE\xdf\xa3", b"RIFF", b"FLV\x01", b"\x00\x00\x01\xba"]))  # fmt: skip
def test_random_bytes_are_refused(tmp_path: Path, content: bytes, start: bytes) -> None:
    path = tmp_path / "fuzz.mp4"
    path.write_bytes(start + content)
    with pytest.raises(InputError):
        probe(path)


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("fuzz")
    sound = click_track(0.9, 0.3)
    return [
        write_clip(folder / f"a.{kind}", numbered(42, 256, 256), sound=sound).read_bytes()
        for kind in ("mp4", "mkv")
    ]


@FUZZ
@given(data=st.data())
def test_damaged_clips_are_read_or_refused(
    tmp_path: Path, small_files: list[bytes], data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(small_files)))
    changes = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for at, value in data.draw(st.lists(changes, min_size=1, max_size=12)):
        content[at] = value
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path = tmp_path / "fuzz.mp4"
    path.write_bytes(bytes(content) or b"x")
    survives(path)
