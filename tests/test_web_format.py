"""What a web page is made of: its bytes, its policy, its refusals, and that it is built of its sources."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import make_avatar, of_kind

from avatar.checks import InputError
from avatar.drive.motion import GAZE_AT_FULL_LOOK, NECK_PIVOT
from avatar.export.web import PageClip, write_page, write_parts
from avatar.export.web_format import LOOK_IN_FILES, MAGIC, encode
from avatar.model.compact import expand
from avatar.types import HeadState

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "avatar" / "export" / "web_page"
SOURCES = ROOT / "viewer" / "web"


def decoded(packed: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """Header and arrays, read as docs/web.md says."""
    raw = gzip.decompress(packed)
    assert raw[:8] == MAGIC
    version, length = struct.unpack("<II", raw[8:16])
    assert version == 1
    header = json.loads(raw[16 : 16 + length])
    start = 16 + length
    arrays = {}
    for name, entry in header["arrays"].items():
        assert (start + entry["at"]) % 8 == 0
        part = raw[start + entry["at"] :][: entry["size"]]
        arrays[name] = np.frombuffer(part, "<" + entry["type"])
    return header, arrays


def batch(avatar, frames: int) -> HeadState:
    rest = avatar.rest
    return HeadState(
        torch.rand(frames, len(rest.expression)),
        rest.gaze.expand(frames, 2, 2),
        rest.T_world_head.expand(frames, 4, 4),
        rest.T_world_torso.expand(frames, 4, 4),
    )


def test_the_bytes_hold_the_avatar(tiny_avatar) -> None:
    header, arrays = decoded(encode(tiny_avatar, title="Ada"))
    assert header["title"] == "Ada"
    assert header["count"] == len(tiny_avatar)
    assert header["names"] == list(tiny_avatar.expression_names)
    assert np.array_equal(arrays["means"].reshape(-1, 3), tiny_avatar.means.detach())
    assert np.array_equal(arrays["basis"], tiny_avatar.basis.flatten())
    shapes = tiny_avatar.deformer.offsets.detach()
    offsets = arrays["branch0.offsets"].reshape(shapes.shape[0], 13, -1).transpose(0, 2, 1)
    scale = arrays["branch0.scale"].reshape(-1, 13) / tiny_avatar.deformer.unit.numpy()
    restored = expand(torch.tensor(offsets), torch.tensor(scale))
    assert torch.allclose(restored, shapes, atol=2e-3)


def test_equal_avatars_give_equal_pages(
    tiny_avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [PageClip("one", batch(tiny_avatar, 5), 25.0)]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    facts = write_page(tmp_path / "a.html", tiny_avatar, clips, title="Ada")
    first = (tmp_path / "a.html").read_bytes()
    write_page(tmp_path / "a.html", tiny_avatar, clips, title="Ada")
    assert (tmp_path / "a.html").read_bytes() == first
    assert facts.bytes == (tmp_path / "a.html").stat().st_size
    assert (facts.gaussians, facts.clips) == (len(tiny_avatar), 1)


def test_a_clip_travels_in_half_precision(tiny_avatar) -> None:
    states = batch(tiny_avatar, 7)
    header, arrays = decoded(encode(tiny_avatar, [PageClip("say <hi>", states, 30.0)]))
    assert header["clips"] == [{"name": "say <hi>", "fps": 30.0, "frames": 7, "mime": None}]
    expression = arrays["clip0.expression"].astype(np.float32).reshape(states.expression.shape)
    assert np.abs(expression - states.expression.numpy()).max() < 5e-4
    assert arrays["clip0.head"].size == 7 * 7


def test_sound_is_cut_to_the_motion(tiny_avatar, tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        tone = (np.sin(np.arange(48_000) * 0.2) * 8000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = PageClip("tone", batch(tiny_avatar, 25), 25.0, path, 1.0)
    header, arrays = decoded(encode(tiny_avatar, [clip]))
    assert header["clips"][0]["mime"] == "audio/mpeg"
    sound = tmp_path / "sound.mp3"
    sound.write_bytes(arrays["clip0.audio"].tobytes())
    with av.open(str(sound)) as container:
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    samples = np.concatenate(parts, 1)[0]
    assert samples.shape[0] / rate == pytest.approx(1.0, abs=0.03)
    assert np.abs(samples[rate // 4 : rate // 2]).max() > 0.1
    with pytest.raises(InputError, match=r"missing\.wav"):
        encode(tiny_avatar, [replace(clip, audio=tmp_path / "missing.wav")])


@pytest.mark.parametrize("kind", ["latent", "rigid", "uvmap"])
def test_other_deformers_are_refused_by_name(kind: str) -> None:
    with pytest.raises(InputError, match=f"'{kind}'.*--deformer branches"):
        encode(of_kind(make_avatar(), kind))


def test_states_of_another_avatar_are_refused(tiny_avatar) -> None:
    states = batch(tiny_avatar, 3)
    wrong = replace(states, expression=states.expression[:, :-1])
    with pytest.raises(ValueError, match="expression"):
        encode(tiny_avatar, [PageClip("wrong", wrong, 25.0)])


def test_the_page_allows_its_own_script_and_nothing_else(tiny_avatar, tmp_path: Path) -> None:
    title = "<img src=x> %%DATA%% & \"quotes\" 'and' ünï"
    write_page(tmp_path / "me.html", tiny_avatar, title=title)
    text = (tmp_path / "me.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert "<img src=x>" not in text
    assert "&lt;img src=x&gt; %%DATA%% &amp;" in text
    data = re.search(r'id="avatar-data">([^<]+)<', text)
    assert data is not None
    assert decoded(base64.b64decode(data[1]))[0]["title"] == title


def test_the_built_page_has_no_address_and_no_eval() -> None:
    for name in ("page.html", "avatar-head.js"):
        text = (BUILT / name).read_text(encoding="utf-8")
        assert not re.findall(r"(?:https?|wss?):?//[\w.]+", text), name
        assert not re.findall(r"\beval\(|new Function\(|innerHTML|document\.write", text), name


def test_parts_for_a_site(tiny_avatar, tmp_path: Path) -> None:
    facts = write_parts(tmp_path / "site", tiny_avatar, name="ada", title="Ada & co")
    names = sorted(path.name for path in facts.path.iterdir())
    assert names == ["ada.bin", "avatar-head.js", "index.html"]
    assert "Ada &amp; co" in (facts.path / "index.html").read_text()
    assert decoded((facts.path / "ada.bin").read_bytes())[0]["count"] == len(tiny_avatar)
    for name in ("../up", 'a"b', ""):
        with pytest.raises(InputError, match="letters, digits"):
            write_parts(tmp_path / "site", tiny_avatar, name=name)


def test_a_folder_that_is_missing_is_named(tiny_avatar, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone/me\.html cannot be written"):
        write_page(tmp_path / "gone" / "me.html", tiny_avatar)


def test_the_page_and_the_readers_agree_on_constants() -> None:
    assert LOOK_IN_FILES == GAZE_AT_FULL_LOOK
    maths = (SOURCES / "src" / "maths.ts").read_text()
    pivot = re.search(r"NECK_PIVOT: Vec3 = \[([^\]]+)\]", maths)
    assert pivot is not None
    assert tuple(map(float, pivot[1].split(","))) == NECK_PIVOT


def test_what_is_shipped_is_built_of_the_sources(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not (SOURCES / "node_modules" / "vite").is_dir():
        pytest.skip("needs node and viewer/web/node_modules, which `make web` sets up")
    command = [node, str(SOURCES / "build.mjs"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd=SOURCES, timeout=300)
    for name in ("page.html", "avatar-head.js"):
        assert (tmp_path / name).read_bytes() == (BUILT / name).read_bytes(), (
            f"{name} is not what its sources make; run: make web"
        )
