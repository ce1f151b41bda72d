"""The ict rig: import of both layouts, the rig file, the store, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from rig_miniatures import head_of, ict_arrays, ict_clone

from avatar.checks import InputError
from avatar.rig import Rig, npz_file, rig_store
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import GAZE_SIDE_RAD, generic_arkit_basis
from avatar.rig.external import LEFT_EYE, RIGHT_EYE, load_rig
from avatar.rig.ict import IctRig, make_ict, read_ict, read_obj
from avatar.rig.ict_layout import EYEBALLS, LANDMARKS, LATTICE_POINTS, NAMES
from avatar.rig.lattice import SKIN_POINTS, lattice_table
from avatar.rig.show import picture_of
from avatar.tensorfile import read_tensors, write_tensors
from capture.pipeline import CaptureConfig, capture_video

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def no_detector():
    raise AssertionError("the layout names the face's points")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return ict_arrays()


@pytest.fixture(scope="module")
def npz(arrays, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ict") / "mini.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def mini(npz) -> IctRig:
    return make_ict(read_ict(npz), "mini", {"file": "mini.npz"})


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(rig_store.OVERRIDE, str(tmp_path / "data"))
    return tmp_path / "data" / "rigs"


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))


# ------------------------------------------------------------------ what an import makes


def test_the_lattice_finds_its_own_face_in_the_mesh(mini: IctRig) -> None:
    away = (mini.face.neutral - lattice_table().neutral)[:SKIN_POINTS].norm(dim=-1)
    assert float(away.median()) < 0.0005
    assert float(away.quantile(0.99)) < 0.003
    landmarks = mini.neutral[list(LANDMARKS)]
    assert float((mini.face.neutral[list(LATTICE_POINTS)] - landmarks).norm(dim=-1).max()) < 0.002
    assert isinstance(mini, Rig)


@pytest.mark.parametrize("name", [n for n in ARKIT_NAMES if n != "tongueOut"])
def test_shapes_arrive_under_apples_names(mini: IctRig, name: str) -> None:
    """browInnerUp and cheekPuff come in halves, Left and Right as _L and _R."""
    k = ARKIT_INDEX[name]
    assert mini.expression_names == ARKIT_NAMES
    theirs, ours = mini.face.basis[k, :SKIN_POINTS], generic_arkit_basis()[k, :SKIN_POINTS]
    assert cosine(theirs, ours) > 0.97
    assert 0.93 < float(theirs.norm() / ours.norm()) < 1.07


def test_vertices_are_the_neutral_plus_the_shapes(mini: IctRig) -> None:
    name, skin = "mouthFunnel", mini.part == 0
    moved = head_of(mini, {name: 0.5, "jawOpen": 0.25}) - mini.neutral
    shapes = mini.expression.float()
    said = 0.5 * shapes[ARKIT_INDEX[name]] + 0.25 * shapes[ARKIT_INDEX["jawOpen"]]
    torch.testing.assert_close(moved[skin], said[skin], atol=1e-6, rtol=0)
    assert float(head_of(mini, {"tongueOut": 1.0}).sub(mini.neutral).abs().max()) < 1e-6
    several = mini.vertices(torch.rand(2, 3, len(ARKIT_NAMES)))
    assert several.shape == (2, 3, len(mini.neutral), 3)
    wider = mini.vertices(torch.zeros(len(ARKIT_NAMES)), torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(
        (wider - mini.neutral)[skin], mini.identity[0].float()[skin], atol=1e-6, rtol=0
    )


def test_eyeballs_turn_rigidly_about_their_centres(mini: IctRig) -> None:
    turned = head_of(mini, {"eyeLookOutLeft": 1.0})
    left, right = mini.part == LEFT_EYE, mini.part == RIGHT_EYE
    torch.testing.assert_close(turned[right], mini.neutral[right], atol=1e-6, rtol=0)
    before, after = mini.neutral[left] - mini.eyeballs[0], turned[left] - mini.eyeballs[0]
    torch.testing.assert_close(before.norm(dim=-1), after.norm(dim=-1), atol=1e-6, rtol=0)
    front = before[:, 2].argmax()
    angle = torch.arccos(torch.cosine_similarity(before[front], after[front], dim=0))
    assert float(angle) == pytest.approx(GAZE_SIDE_RAD, abs=0.02)
    assert float(after[front, 0] - before[front, 0]) > 0, "the left eye's outside is to the left"


def test_expressions_are_differentiable(mini: IctRig) -> None:
    e = torch.rand(len(ARKIT_NAMES), dtype=torch.float64, requires_grad=True)
    few = torch.tensor([0, 3000, EYEBALLS[0][0] + 5])
    assert torch.autograd.gradcheck(lambda x: mini.vertices(x)[few], (e,))


# ------------------------------------------------------------------ files


def test_rig_file_round_trip(mini: IctRig, tmp_path: Path) -> None:
    mini.save(tmp_path / "a.safetensors")
    again = load_rig(tmp_path / "a.safetensors")
    assert isinstance(again, IctRig)
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    e = torch.rand(len(ARKIT_NAMES))
    torch.testing.assert_close(again.vertices(e), mini.vertices(e))
    assert again.source == {"file": "mini.npz"}


def test_a_clone_gives_what_the_npz_gives(arrays, mini: IctRig, tmp_path: Path) -> None:
    made = make_ict(read_ict(ict_clone(tmp_path / "ICT-FaceKit", arrays)), "mini", {})
    torch.testing.assert_close(made.neutral, mini.neutral, atol=2e-6, rtol=0)
    torch.testing.assert_close(made.face.basis, mini.face.basis, atol=2e-4, rtol=0)
    assert made.identity.shape == mini.identity.shape


def test_obj_polygons_become_fans(tmp_path: Path) -> None:
    path = tmp_path / "a.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1/1/1 2//1 3 4\n")
    vertices, triangles = read_obj(path)
    assert vertices.shape == (4, 3)
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize(
    "text",
    ["", "v 1 2\n", "v a b c\n", "v 0 0 0\nf 1 2 3\n", "v 0 0 0\nf 1 x 3\n", "f 1 2 3\n", "\xff"],
)
def test_what_is_no_obj(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.obj"
    path.write_text(text, encoding="latin1")
    with pytest.raises(InputError, match=r"a\.obj"):
        read_obj(path)


def other(arrays, **changes) -> dict[str, np.ndarray]:
    return {k: v for k, v in {**arrays, **changes}.items() if v is not None}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: {"neutral": a["neutral"][:-1]}, "26718 vertices"),
        (lambda a: {"expr": a["expr"][:, :100]}, "100 vertices"),
        (lambda a: {"expr": a["expr"][:-1]}, "53 names for 52"),
        (lambda a: {"names": np.array([*NAMES[:-1], "grin"])}, "noseSneer_R"),
        (lambda a: {"names": np.arange(53)}, "names"),
        (lambda a: {"ident": None}, "no ident"),
        (lambda a: {"neutral": a["neutral"] * np.nan}, "NaN"),
        (lambda a: {"neutral": a["neutral"] * 1000}, "beyond 100 cm"),
        (lambda a: {"neutral": a["neutral"].astype("<U8")}, "neutral"),
        (lambda a: {"tri": a["tri"] - 1}, "'tri'"),
        (lambda a: {"tri": a["tri"] * 10}, "'tri'"),
        (lambda a: {"tri": a["tri"].astype(np.float32)}, "whole numbers"),
        (lambda a: {"ident": np.array([{}], object)}, "npz"),
        (lambda a: {"neutral": a["neutral"][::-1].copy()}, "not a face"),
    ],
)  # fmt: skip
def test_other_versions_and_damage_are_refused(arrays, change, words, tmp_path, store) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **other(arrays, **change(arrays)))
    with pytest.raises(InputError, match=words):
        rig_store.import_rig(path, None, no_detector)
    assert not list(store.glob("*")), "nothing half-written"


def test_truncated_and_altered_files(arrays, tmp_path, store) -> None:
    np.savez(tmp_path / "whole.npz", **other(arrays, expr=arrays["expr"][:, :50]))
    whole = (tmp_path / "whole.npz").read_bytes()
    random = np.random.default_rng(1)
    path = tmp_path / "bad.npz"
    cuts = [whole[: int(n)] for n in (0, 1, 30, *random.integers(40, len(whole), 6))]
    altered = []
    for _ in range(25):
        data = bytearray(whole)
        for at in random.integers(0, len(data), 40):
            data[at] = random.integers(256)
        altered.append(bytes(data))
    for data in [*cuts, *altered, b"PK\x03\x04" + bytes(200), b"\x00" * 100]:
        path.write_bytes(data)
        with pytest.raises(InputError, match="bad"):
            rig_store.import_rig(path, None, no_detector)
    assert not list(store.glob("*"))


def test_an_npz_that_unpacks_to_more_than_any_head_model(npz, store, monkeypatch) -> None:
    monkeypatch.setattr(npz_file, "LARGEST_BYTES", 1_000_000)
    with pytest.raises(InputError, match=r"mini\.npz unpacks to 0\.\d GB"):
        rig_store.import_rig(npz, None, no_detector)


def test_a_part_that_is_no_array(npz, store, tmp_path) -> None:
    path = tmp_path / "mini.npz"
    with zipfile.ZipFile(npz) as source, zipfile.ZipFile(path, "w") as target:
        for part in source.namelist():
            text = part == "tri.npy"
            target.writestr("tri" if text else part, b"words" if text else source.read(part))
    with pytest.raises(InputError, match=r"'tri' is not an array"):
        rig_store.import_rig(path, None, no_detector)


@pytest.mark.parametrize("at", [200, 20_000])
def test_a_damaged_stream(arrays, store, tmp_path, at) -> None:
    """zlib's and tokenize's errors, of the packed numbers and of a header, are no ValueError."""
    path = tmp_path / "mini.npz"
    np.savez_compressed(path, **arrays)
    content = bytearray(path.read_bytes())
    content[at : at + 100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"mini\.npz cannot be read as an \.npz file"):
        rig_store.import_rig(path, None, no_detector)


def test_rig_files_that_are_none(mini: IctRig, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    mini.save(path)
    tensors, header = read_tensors(path, format="headsplat.rig", version=1)
    header = {k: v for k, v in header.items() if k not in ("format", "version")}

    def refused(words: str, version: int = 1, format: str = "headsplat.rig", **changes) -> None:
        kept = {k: v for k, v in changes.items() if k in tensors}
        said = {k: v for k, v in changes.items() if k not in tensors}
        now = {k: v for k, v in (tensors | kept).items() if v is not None}
        write_tensors(path, now, format=format, version=version, header=header | said)
        with pytest.raises(InputError, match=words):
            load_rig(path)

    refused("version 2", version=2)
    refused("headsplat.rig", format="headsplat.track")
    refused("'smplx'", kind="smplx")
    refused("expression_names", expression_names=["a"] * 52)
    refused("expression_names", expression_names=None)
    refused("ict.expression", **{"ict.expression": None})
    refused("ict.identity", **{"ict.identity": tensors["ict.identity"][:, :5]})
    refused("embedding.triangle", **{"embedding.triangle": tensors["embedding.triangle"] - 99999})
    refused("triangles", triangles=tensors["triangles"].float())
    refused("NaN", neutral=tensors["neutral"] * torch.nan)
    mini.save(path)
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"a\.safetensors"):
            load_rig(path)


# ------------------------------------------------------------------ the store


def test_import_list_open_remove(npz, store) -> None:
    assert rig_store.rig_names() == []
    rig_store.import_rig(npz, None, no_detector)
    rig_store.import_rig(npz, "anna", no_detector)
    assert rig_store.rig_names() == ["anna", "ict"]
    assert rig_store.open_rig("anna").name == "anna"
    assert len(rig_store.rig_sha256("ict")) == 64
    with pytest.raises(InputError, match=r"'anna' is imported already.*--overwrite"):
        rig_store.import_rig(npz, "anna", no_detector)
    rig_store.import_rig(npz, "anna", no_detector, replace=True)
    rig_store.remove_rig("anna")
    with pytest.raises(InputError, match=r"'anna'.*There are: lattice, ict.*avatar rig import"):
        rig_store.open_rig("anna")
    rig_store.remove_rig("ict")
    with pytest.raises(InputError, match="None is imported"):
        rig_store.remove_rig("ict")


@pytest.mark.slow
def test_a_track_outlives_its_rig(npz, store, small_clip, small_capture, tmp_path) -> None:
    folder = tmp_path / "me.capture"
    shutil.copytree(small_capture.path, folder)
    rig_store.import_rig(npz, "anna", no_detector)
    made = capture_video([small_clip], folder, CaptureConfig(rig="anna"))
    assert made.track.rig == "ict"

    def stamps() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    before = stamps()
    rig_store.remove_rig("anna")
    capture_video([small_clip], folder, CaptureConfig(rig="anna"))
    # What the track was not made with needs the head model, and so does another name.
    for config in (CaptureConfig(rig="anna", focal_mm=30.0), CaptureConfig(rig="bob")):
        with pytest.raises(InputError, match=f"No head model named '{config.rig}'"):
            capture_video([small_clip], folder, config)
    assert stamps() == before, "nothing is made anew, and nothing is lost"
    with pytest.raises(InputError, match="No head model named 'anna'"):
        capture_video([small_clip], tmp_path / "new.capture", CaptureConfig(rig="anna"))
    assert not (tmp_path / "new.capture").exists()


@pytest.mark.parametrize("name", ["lattice", "", "..", "../up", "a/b", ".hidden", "a b", "x" * 65])
def test_names_that_are_none(npz, store, name) -> None:
    with pytest.raises(InputError, match="cannot be called"):
        rig_store.import_rig(npz, name, no_detector)
    with pytest.raises(InputError):
        rig_store.rig_path(name)


def test_where_rigs_are_kept(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv(rig_store.OVERRIDE, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert rig_store.rigs_folder() == tmp_path / "headsplat" / "rigs"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert rig_store.rigs_folder() == tmp_path / ".local/share/headsplat/rigs"


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"solid cube\n"])
def test_files_of_other_kinds(content, tmp_path, store) -> None:
    path = tmp_path / "head.obj"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"head\.obj"):
        rig_store.import_rig(path, None, no_detector)
    with pytest.raises(InputError, match="does not exist"):
        rig_store.import_rig(tmp_path / "none.npz", None, no_detector)
    np.savez(tmp_path / "a.npz", weights=np.zeros(3))
    with pytest.raises(InputError, match="it holds weights"):
        rig_store.import_rig(tmp_path / "a.npz", None, no_detector)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"generic_neutral_mesh\.obj"):
        rig_store.import_rig(tmp_path / "empty", None, no_detector)


def command(*arguments: object, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "avatar.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, rig_store.OVERRIDE: str(data)},
    )


def test_command_line(mini: IctRig, tmp_path) -> None:
    data = tmp_path / "data"
    (data / "rigs").mkdir(parents=True)
    mini.save(data / "rigs" / "mini.safetensors")
    (data / "rigs" / "broken.safetensors").write_bytes(b"half a fi")
    listed = json.loads(command("rig", "list", "--json", "-", data=data).stdout)
    assert [row["name"] for row in listed] == ["broken", "mini"]
    assert "damaged" in listed[0]["error"]
    assert listed[1]["kind"] == "ict"
    bad = command("capture", "x.mp4", "-o", tmp_path / "x.capture", "--rig", "nobody", data=data)
    assert bad.returncode == 1
    assert "mini" in bad.stderr + bad.stdout
    assert "Traceback" not in bad.stderr
    assert not (tmp_path / "x.capture").exists()


def test_the_picture_shows_head_and_points(mini: IctRig) -> None:
    picture = picture_of(mini)
    assert picture.shape == (480, 2400, 3)
    first = picture[:, :480].reshape(-1, 3).astype(int)
    skin = (first[:, 0] > first[:, 2] + 15) & (first[:, 0] > 120)
    assert 0.2 < float(skin.mean()) < 0.9
    blue = (first[:, 2] > 200) & (first[:, 0] < 60)
    assert blue.sum() >= 28 * 2, "the lids' points"
