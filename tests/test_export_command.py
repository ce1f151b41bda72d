"""The command `avatar export` on a small real avatar: options, formats, errors in one sentence."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import make_avatar
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from splat_readers import read_with_gsply

from avatar.checks import InputError
from avatar.cli_common import UsageError
from avatar.cli_export import (
    choose_format,
    export,
    formats_table,
    parse_colour,
    parse_expression,
)
from avatar.cli_export_formats import FORMATS
from avatar.drive.arkit_csv import write_arkit_csv
from avatar.drive.motion import FaceMotion
from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES


@pytest.fixture(scope="module")
def avatar_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("avatar") / "me.avatar"
    make_avatar(400).save(path)
    return path


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """A second of an opening jaw, 26 frames at 25 frames/s."""
    path = tmp_path_factory.mktemp("motion") / "speech.csv"
    time_s = torch.arange(26, dtype=torch.float64) / 25
    weights = torch.zeros(26, 52, dtype=torch.float64)
    weights[:, ARKIT_INDEX["jawOpen"]] = time_s
    write_arkit_csv(path, FaceMotion(time_s, weights))
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "avatar.cli", "export", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_formats_are_listed_with_what_opens_them() -> None:
    done = run("--list")
    assert done.returncode == 0
    assert done.stdout.strip() == formats_table()
    for kind in FORMATS.values():
        assert kind.name in done.stdout
        assert kind.opens in done.stdout


def test_without_an_avatar_or_an_output_it_is_wrong_usage(avatar_file: Path) -> None:
    assert run().returncode == 2
    with pytest.raises(UsageError, match="-o OUTPUT"):
        export(avatar_file)


@pytest.mark.parametrize("kind", FORMATS.values(), ids=lambda kind: kind.name)
def test_every_format_is_told_by_its_suffix(kind) -> None:
    for suffix in kind.suffixes:
        assert choose_format(None, Path(f"some.where/me{suffix.upper()}")) is kind
    assert choose_format(kind.name, Path("me.anything")) is kind


@pytest.mark.parametrize(
    ("format", "output", "words"),
    [
        (None, "me.obj", r"suffix \.obj"),
        (None, "me", "no suffix"),
        ("plyy", "me.ply", "Did you mean ply"),
        ("realitycapture", "me", "none of ply"),
    ],
)
def test_an_unknown_format_is_told_with_what_there_is(format, output, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        choose_format(format, Path(output))
    assert "compressed-ply" in str(caught.value)


def test_expressions_are_read() -> None:
    assert parse_expression("") == {}
    assert parse_expression(" jawOpen=0.4, MOUTHSMILELEFT = 1 ,") == {
        "jawOpen": 0.4,
        "mouthSmileLeft": 1.0,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jawOpn=0.4", "Nearest: jawOpen"),
        ("smileLeft=1", "mouthSmileLeft"),
        ("xyzzy=1", "They are: .*jawOpen"),
        ("jawOpen", "needs a number"),
        ("jawOpen=", "needs a number"),
        ("jawOpen=wide", "got 'wide'"),
        ("jawOpen=nan", "needs a number"),
        ("jawOpen=inf", "needs a number"),
        ("jawOpen=40", "-1 to 2"),
        ("jawOpen=0.1,jawopen=0.2", "twice"),
        ("=0.3", "''"),
    ],
)
def test_wrong_expressions_are_explained(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_expression(text)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=40), st.text("jawOpen=0.4,- e", max_size=30)))
def test_any_text_is_an_expression_or_an_error_of_one_sentence(text: str) -> None:
    try:
        values = parse_expression(text)
    except InputError as error:
        assert str(error).startswith("--expression")
    else:
        assert set(values) <= set(ARKIT_NAMES)
        assert all(-1 <= value <= 2 for value in values.values())
    try:
        colour = parse_colour(text)
    except InputError as error:
        assert "no colour" in str(error)
    else:
        assert len(colour) == 3
        assert all(0 <= value <= 1 for value in colour)


def test_colours_have_names_and_numbers() -> None:
    assert parse_colour("white") == (1, 1, 1)
    assert parse_colour("#00ff80") == (0, 1, pytest.approx(128 / 255))


def test_an_expression_poses_the_gaussians(avatar_file: Path, tmp_path: Path) -> None:
    export(avatar_file, output=tmp_path / "rest.ply")
    export(avatar_file, output=tmp_path / "open.ply", expression="jawOpen=0.8,eyeLookUpLeft=1")
    rest, opened = (read_with_gsply(tmp_path / f"{n}.ply") for n in ("rest", "open"))
    from avatar.model.views import slider_state

    model = Avatar.load(avatar_file)
    with torch.no_grad():
        expected = model.pose(slider_state(model, {"jawOpen": 0.8, "eyeLookUpLeft": 1.0}))
        neutral = model.pose(model.rest)
    assert torch.allclose(opened.means, expected.means, atol=1e-6)
    assert torch.allclose(rest.means, neutral.means, atol=1e-6)
    assert not torch.allclose(opened.means, rest.means, atol=1e-3)


def test_axes_are_turned_when_asked_for(avatar_file: Path, tmp_path: Path) -> None:
    export(avatar_file, output=tmp_path / "up.splat")
    export(avatar_file, output=tmp_path / "up.ply")
    export(avatar_file, output=tmp_path / "down.ply", axes="opencv")
    up, down = (read_with_gsply(tmp_path / f"{n}.ply").means for n in ("up", "down"))
    assert torch.equal(down, up * torch.tensor([1.0, -1, -1]))
    for name in ("me.glb", "me.spz"):
        with pytest.raises(InputError, match="y up"):
            export(avatar_file, output=tmp_path / name, axes="opencv")
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("format", ["ply", "compressed-ply", "spz", "splat", "glb"])
def test_motion_makes_a_folder_of_gaussians(
    format: str, avatar_file: Path, speech: Path, tmp_path: Path
) -> None:
    out = tmp_path / "seq"
    export(avatar_file, output=out, format=format, drive=str(speech), frames=3)
    suffix = FORMATS[format].suffixes[0]
    assert names(out) == [f"{i:06d}{suffix}" for i in range(3)]
    assert names(tmp_path) == ["seq"]
    contents = {path.read_bytes() for path in out.iterdir()}
    assert len(contents) == 3  # it moves


def test_one_frame_of_the_motion(avatar_file: Path, speech: Path, tmp_path: Path) -> None:
    export(avatar_file, output=tmp_path / "f.ply", drive=str(speech), frame=20)
    export(avatar_file, output=tmp_path / "e.ply", expression="jawOpen=0.8")
    f, e = (read_with_gsply(tmp_path / f"{n}.ply").means for n in "fe")
    assert torch.allclose(f, e, atol=1e-6)  # 20 / 25 of the way
    with pytest.raises(InputError, match="26 frames"):
        export(avatar_file, output=tmp_path / "x.ply", drive=str(speech), frame=26)
    assert names(tmp_path) == ["e.ply", "f.ply"]


def test_pictures_alone_and_in_a_folder(avatar_file: Path, speech: Path, tmp_path: Path) -> None:
    export(avatar_file, output=tmp_path / "me.png", size=(80, 60), expression="jawOpen=1")
    with Image.open(tmp_path / "me.png") as picture:
        assert (picture.mode, picture.size) == ("RGBA", (80, 60))
        low, high = np.asarray(picture)[..., 3].min(), np.asarray(picture)[..., 3].max()
    assert low == 0
    assert high > 200
    export(avatar_file, output=tmp_path / "green.png", size=(80, 60), background="#00ff00")
    with Image.open(tmp_path / "green.png") as picture:
        assert picture.mode == "RGB"
        assert picture.getpixel((0, 0)) == (0, 255, 0)
    out = tmp_path / "frames"
    for camera in ("front", "orbit", "turntable", "capture"):
        export(
            avatar_file,
            output=out,
            format="png",
            drive=str(speech),
            frames=4,
            size=(64, 48),
            camera=camera,
            overwrite=camera != "front",
        )
        assert names(out) == [f"{i:06d}.png" for i in range(4)]
    with pytest.raises(InputError, match="--overwrite"):
        export(avatar_file, output=out, format="png", drive=str(speech), frames=1)
    assert len(names(out)) == 4
    with pytest.raises(InputError, match="one picture"):
        export(avatar_file, output=tmp_path / "two.png", drive=str(speech))


@pytest.mark.parametrize(
    ("fps", "frames", "expected"), [(None, None, 26), (None, 5, 5), (50.0, None, 51), (12.5, 4, 4)]
)
def test_videos_have_the_rate_and_length_asked_for(
    avatar_file: Path, speech: Path, tmp_path: Path, fps, frames, expected: int
) -> None:
    out = tmp_path / "me.mp4"
    export(avatar_file, output=out, drive=str(speech), fps=fps, frames=frames, size=(48, 32))
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        assert float(stream.average_rate) == (fps or 25)
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(pictures) == expected
    assert (pictures[0][:2, :2] > 250).all()  # white


def test_a_video_with_transparency(avatar_file: Path, speech: Path, tmp_path: Path) -> None:
    from test_export_alpha import decoded, needs_encoder

    for suffix in (".webm", ".mov"):
        needs_encoder(suffix)
        out = tmp_path / f"me{suffix}"
        export(avatar_file, output=out, drive=str(speech), frames=3, size=(64, 48))
        frames = decoded(out)
        assert frames.shape == (3, 48, 64, 4)
        assert frames[..., 3].min() <= 1
        assert frames[..., 3].max() >= 254
        with pytest.raises(InputError, match="mp4"):
            export(avatar_file, output=out, drive=str(speech), background="white")
    with pytest.raises(InputError, match="webm or mov"):
        export(avatar_file, output=tmp_path / "me.mp4", background="transparent")


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_the_motion_as_csv(avatar_file: Path, speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.csv"
    export(avatar_file, output=out, drive=str(speech), expression="browInnerUp=0.3")
    rows = read_csv(out)
    assert len(rows) == 26
    assert rows[0]["BlendshapeCount"] == "61"
    for i, row in enumerate(rows):
        assert float(row["JawOpen"]) == pytest.approx(i / 25, abs=1e-5)
        assert float(row["BrowInnerUp"]) == pytest.approx(0.3, abs=1e-6)
        assert float(row["EyeBlinkLeft"]) == 0
    assert rows[-1]["Timecode"].endswith(":00.000")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frame": -1}, "counts from 0"),
        ({"frames": 0}, "at least 1"),
        ({"frame": 1, "frames": 2}, "one frame"),
        ({"fps": 0.0}, "240"),
        ({"fps": float("nan")}, "240"),
        ({"size": (0, 10)}, "pixels"),
        ({"size": (100, 10**6)}, "pixels"),
        ({"background": "bluish"}, "no colour"),
        ({"drive": "nothing.csv"}, "nothing.csv"),
        ({"drive": "self"}, "own capture is not at hand"),
    ],
)
def test_wrong_options_are_told_and_leave_nothing(
    options, words: str, avatar_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        export(avatar_file, output=tmp_path / "me.mp4", **options)
    assert names(tmp_path) == []


def test_a_folder_in_the_way_of_a_file_is_told(avatar_file: Path, tmp_path: Path) -> None:
    for name in ("me.ply", "me.mp4", "me.webm", "me.csv"):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match="folder"):
            export(avatar_file, output=tmp_path / name)


def test_errors_are_one_sentence_without_traceback(avatar_file: Path, tmp_path: Path) -> None:
    done = run(avatar_file, "-o", tmp_path / "me.ply", "--expression", "jawopn=1")
    assert done.returncode == 1
    assert "jawOpen" in done.stderr
    assert "Traceback" not in done.stderr
    done = run(tmp_path / "none.avatar", "-o", tmp_path / "me.ply")
    assert done.returncode == 1
    assert "none.avatar" in done.stderr
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["frames", "me.webm"])
def test_ctrl_c_leaves_nothing(avatar_file: Path, tmp_path: Path, name: str) -> None:
    long = tmp_path / "long.csv"
    time_s = torch.arange(20_000, dtype=torch.float64) / 25
    write_arkit_csv(long, FaceMotion(time_s, torch.rand(20_000, 52, dtype=torch.float64)))
    out = tmp_path / "out"
    out.mkdir()
    options = ["--format", "png"] if name == "frames" else []
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "avatar.cli", "export", str(avatar_file)),
            *("-o", str(out / name), "--drive", str(long), "--size", "64", "64", *options),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not os.listdir(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.listdir(out), "it never began to write"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert os.listdir(out) == []


def test_render_writes_transparent_videos_too(
    avatar_file: Path, speech: Path, tmp_path: Path
) -> None:
    from test_export_alpha import decoded, needs_encoder

    from avatar.cli import render

    needs_encoder(".webm")
    out = tmp_path / "me.webm"
    render(avatar_file, output=out, drive=str(speech), frames=2, size=(64, 48), camera="turntable")
    assert decoded(out)[..., 3].min() <= 1
    with pytest.raises(InputError, match="--background"):
        render(avatar_file, output=out, drive=str(speech), background=(1, 1, 1))
    render(avatar_file, output=tmp_path / "me.mp4", drive=str(speech), frames=2, size=(64, 48))
    with av.open(str(tmp_path / "me.mp4")) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert (first[:2, :2] > 250).all()
