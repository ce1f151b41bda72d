"""The invisible mark: not seen, found after what videos go through, and never where there is none."""

from __future__ import annotations

import io
import math

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar.export import watermark
from avatar.export.watermark import FALSE_ALARM, Detection, Watermark, detect, spread

AVATAR = 0xDEADBEEF


def head(frame: int = 0, size: int = 512, seed: int = 0) -> np.ndarray:
    """Return a picture like an avatar's: a textured, shaded oval that moves, on white."""
    rng = np.random.default_rng(seed)
    texture = sum(
        cv2.GaussianBlur(rng.normal(0, 1, (size, size)).astype(np.float32), (0, 0), sigma) * gain
        for sigma, gain in ((1.0, 4), (3.0, 24), (12.0, 150), (40.0, 900))
    )
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    shift = np.float32([[1, 0, 6 * math.sin(frame / 5)], [0, 1, 4 * math.sin(frame / 7)]])
    grey = 165 - 90 * ((x - 0.4) ** 2 + (y - 0.35) ** 2) + texture
    alpha = np.clip(60 * (0.16 - (x - 0.5) ** 2 - 0.7 * (y - 0.55) ** 2) + 0.5, 0, 1)
    colour = np.clip(grey[..., None] * np.float32([1.05, 0.85, 0.75]), 0, 255)
    picture = alpha[..., None] * colour + (1 - alpha[..., None]) * 255
    moved = cv2.warpAffine(picture, shift, (size, size), borderValue=(255, 255, 255))
    return np.ascontiguousarray(np.clip(moved + 0.5, 0, 255).astype(np.uint8))


def h264(pictures: list[np.ndarray], crf: int) -> list[np.ndarray]:
    """Return pictures as they come out of a video."""
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(crf)})
        stream.width, stream.height = pictures[0].shape[1], pictures[0].shape[0]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    memory.seek(0)
    with av.open(memory) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def plain() -> list[np.ndarray]:
    return [head(frame) for frame in range(24)]


@pytest.fixture(scope="module")
def marked(plain) -> list[np.ndarray]:
    mark = Watermark(AVATAR)
    return [mark.mark(picture) for picture in plain]


def test_the_mark_is_not_seen(plain, marked):
    for before, after in zip(plain, marked, strict=True):
        difference = after.astype(np.float64) - before
        assert 10 * math.log10(255**2 / (difference**2).mean()) >= 42
        assert np.abs(difference).max() <= 3
        assert (difference[(before == 255).all(-1)] == 0).all(), "white stays white"


def test_flat_colours_are_not_marked():
    for grey in (0, 128, 251, 255):
        flat = np.full((128, 160, 3), grey, np.uint8)
        assert (Watermark(1).mark(flat) == flat).all()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p: p[:1], id="a picture"),
        pytest.param(lambda p: h264(p, 28), id="CRF 28"),
        pytest.param(lambda p: h264([f[7:-9, 10:-12] for f in p], 28), id="cropped, CRF 28"),
        pytest.param(
            lambda p: h264(
                [cv2.resize(f, (384, 384), interpolation=cv2.INTER_AREA) for f in p], 28
            ),
            id="3/4, CRF 28",
        ),
        pytest.param(
            lambda p: [cv2.imdecode(cv2.imencode(".jpg", p[0], [1, 75])[1], 1)], id="JPEG 75"
        ),
        pytest.param(
            lambda p: [np.concatenate([np.full_like(f, 255)[:, :300], f], 1) for f in p[:4]],
            id="beside another picture",
        ),
    ],
)
def test_the_mark_and_its_avatar_are_found_after(marked, change):
    found = detect(change(marked))
    assert found.found
    assert found.false_alarm < FALSE_ALARM
    assert found.avatar_id == AVATAR


def test_scale_is_told(marked):
    found = detect([cv2.resize(marked[0], (384, 384), interpolation=cv2.INTER_AREA)])
    assert found.scale == pytest.approx(0.75, abs=0.01)


def test_nothing_is_found_where_nothing_is(plain):
    for pictures in (plain[:1], h264(plain, 28), [np.full((64, 64, 3), 255, np.uint8)]):
        found = detect(pictures)
        assert not found.found
        assert found.avatar_id is None
        assert found.false_alarm > FALSE_ALARM
    assert detect([]) == Detection(False, 1.0)
    assert not detect([np.zeros((3, 500, 3), np.uint8)]).found


def test_the_bound_on_false_alarms_holds(plain, monkeypatch):
    """Of unmarked pictures and random signs t is as small as theory says, so that the bound is one."""
    grey = [cv2.cvtColor(plain[i], cv2.COLOR_RGB2GRAY) for i in (0, 8, 16)]
    folded = [
        watermark._fold([one], 1.0, *place) for one in grey for place in ((0, 0), (1, 2), (3, 1))
    ]
    folded.append(watermark._fold(grey, 1.0, 0, 0))
    striped = np.tile(np.float32([1, -1] * 16), (32, 1))  # a picture that is all pattern
    rng = np.random.default_rng(5)
    for x in (*folded, striped):
        at = watermark._PILOT_AT
        energy = np.linalg.norm(x.ravel()[at])
        signs = rng.integers(0, 2, (200_000, len(at)), dtype=np.int8) * 2 - 1
        t = signs.astype(np.float32) @ x.ravel()[at] / energy
        for u in (2.0, 3.0, 4.0):
            assert (t >= u).mean() <= math.exp(-(u**2) / 2)
        # Nearly normal, as a sum of many: the theorem leaves room.
        assert (t >= 4.0).mean() < 1.5e-4
    # And the pilot's own signs are no luckier than random ones.
    best = max(float(watermark._correlate(x).t.max()) for x in folded)
    assert best < 6.1  # needed for a find among 1024 places: sqrt(2 ln(6 * 1024 * 16 / 1e-6)) = 7.1


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_payloads_are_read_out_of_noise(avatar_id, seed):
    rng = np.random.default_rng(seed)
    chips = watermark._signs_of(avatar_id) + rng.normal(0, 1.2, watermark.SIDE**2)
    assert watermark._payload(chips.astype(np.float32)) == avatar_id


def test_noise_is_no_payload():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (300, watermark.SIDE**2)).astype(np.float32)
    # 64 guesses at 16 bits of version and checksum: one in a thousand.
    assert sum(watermark._payload(chips) is not None for chips in noise) <= 4


def test_the_code_never_changes():
    """Marks out there were made with these signs; others need another VERSION."""
    assert watermark.VERSION == 1
    assert watermark._symbols_of(AVATAR) == [0x1D, 0xEA, 0xDB, 0xEE, 0xF2, 0xEB]
    signs = watermark._signs_of(AVATAR)
    assert int((signs != 0).sum()) == watermark.PILOT + 6 * watermark.PER_SYMBOL
    weights = np.arange(1, signs.size + 1)
    assert int(signs.astype(np.int64) @ weights) == CODE_SUM


CODE_SUM = -7496


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 200, 3), (97, 131, 3), (600, 34, 3)])
def test_any_size_is_marked(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    before = picture.copy()
    after = Watermark(5).mark(picture)
    assert after.shape == shape
    assert (picture == before).all(), "the caller's picture stays"


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        Watermark(1).mark(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="avatar_id"):
        Watermark(1 << 32)


def test_frames_are_spread_over_a_video():
    assert spread(0) == []
    assert spread(3) == [0, 1, 2]
    chosen = spread(1000, 5)
    assert chosen[0] == 0
    assert chosen[-1] == 999
    assert len(chosen) == 5
