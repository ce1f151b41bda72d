"""The flame rig: the published formulas, the import of a generated model, and pickles that would harm."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import pickletools
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from rig_miniatures import flame_arrays, flame_pickle, head_of

from avatar.checks import InputError
from avatar.rig import rig_store
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import JAW_OPEN_RAD, generic_arkit_basis
from avatar.rig.external import LEFT_EYE, load_rig
from avatar.rig.flame import FlameModel, FlameRig
from avatar.rig.flame_file import LAYOUT, read_flame
from avatar.rig.flame_import import make_flame
from avatar.rig.flame_pickle import read_arrays
from avatar.rig.lattice import REGIONS, SKIN_POINTS, lattice_table
from avatar.rotations import rotvec_to_matrix

# ------------------------------------------------------------------ the formulas


def small_model() -> FlameModel:
    """Six vertices on five joints along the axes; every number is a round one."""
    random = torch.Generator().manual_seed(2)
    template = torch.tensor([
        [0, -2, 0], [0, -1, 0], [0, 0, 1], [1, 1, 0], [-1, 1, 0], [0, 0, 3]
    ], dtype=torch.float64)  # fmt: skip
    return FlameModel(
        template=template,
        shapes=torch.randn(7, 6, 3, generator=random).double(),
        pose=torch.zeros(36, 6, 3).double(),
        regressor=torch.eye(6, dtype=torch.float64)[:5],
        parents=(-1, 0, 1, 1, 1),
        weights=torch.cat([torch.eye(5), torch.eye(5)[2:3]]).double(),
        identities=4,
    )


def turns_of(**joints: torch.Tensor) -> torch.Tensor:
    turns = torch.eye(3, dtype=torch.float64).repeat(5, 1, 1)
    for k, name in enumerate(("root", "neck", "jaw", "left", "right")):
        if name in joints:
            turns[k] = joints[name]
    return turns


def about(axis: int, degrees: float) -> torch.Tensor:
    return rotvec_to_matrix(torch.eye(3).double()[axis] * np.radians(degrees))


NONE = torch.zeros(3, dtype=torch.float64)


def test_at_rest_it_is_the_template_plus_the_components() -> None:
    model = small_model()
    torch.testing.assert_close(model.vertices(turns_of(), NONE), model.template)
    e, b = torch.tensor([0.5, 0.0, -1.0]).double(), torch.tensor([2.0, 1.0]).double()
    posed = model.vertices(turns_of(), e, b)
    said = model.template + 0.5 * model.shapes[4] - model.shapes[6]
    torch.testing.assert_close(posed, said + 2 * model.shapes[0] + model.shapes[1])


def test_the_jaw_turns_about_its_joint() -> None:
    """Joint at (0, 0, 1), vertex at (0, 0, 3): a quarter turn about x takes it to (0, -2, 1)."""
    posed = small_model().vertices(turns_of(jaw=about(0, 90)), NONE)
    torch.testing.assert_close(posed[5], torch.tensor([0.0, -2.0, 1.0]).double())
    torch.testing.assert_close(posed[:5], small_model().template[:5])


def test_joints_carry_those_that_hang_on_them() -> None:
    """The neck at (0, -1, 0) turns a quarter about z, and the jaw opens by another about its own x."""
    model = small_model()
    posed = model.vertices(turns_of(neck=about(2, 90), jaw=about(0, 90)), NONE)
    # Without the neck: (0, -2, 1); from the neck's joint that is (0, -1, 1), turned (1, 0, 1).
    torch.testing.assert_close(posed[5], torch.tensor([1.0, -1.0, 1.0]).double())
    torch.testing.assert_close(posed[3], torch.tensor([-2.0, 0.0, 0.0]).double())
    torch.testing.assert_close(posed[0], model.template[0])


def test_skinning_blends_motions_and_correctives_add() -> None:
    model = small_model()
    weights = model.weights.clone()
    weights[5] = torch.tensor([0, 0.5, 0.5, 0, 0]).double()
    pose = model.pose.clone()
    # The jaw is the second of the four turning joints; number 4 of its nine is R[1, 1] - 1.
    pose[9 + 4, 3] = torch.tensor([0.0, 0.0, 1.0]).double()
    mixed = FlameModel(**{**vars(model), "weights": weights, "pose": pose})
    posed = mixed.vertices(turns_of(jaw=about(0, 90)), NONE)
    torch.testing.assert_close(posed[5], torch.tensor([0.0, -1.0, 2.0]).double())
    torch.testing.assert_close(posed[3], torch.tensor([1.0, 1.0, -1.0]).double())


def test_joints_follow_identity() -> None:
    model = small_model()
    b = torch.tensor([0.3, -0.2, 0.1, 0.4]).double()
    shaped = model.template + torch.einsum("i,ivc->vc", b, model.shapes[:4])
    posed = model.vertices(turns_of(root=about(1, 30), left=about(0, 50)), NONE, b)
    said = (shaped[3] - shaped[0]) @ about(1, 30).T + shaped[0]
    torch.testing.assert_close(posed[3], said, msg="a vertex on its joint goes with the root alone")


def test_batches_and_gradients() -> None:
    model = small_model()
    random = torch.Generator().manual_seed(0)
    rotvec = 0.3 * torch.randn(2, 5, 3, generator=random).double()
    e = torch.randn(2, 3, generator=random).double()
    many = model.vertices(rotvec_to_matrix(rotvec), e)
    for k in range(2):
        torch.testing.assert_close(many[k], model.vertices(rotvec_to_matrix(rotvec[k]), e[k]))
    rotvec.requires_grad_(True)
    e.requires_grad_(True)
    f = lambda r, x: model.vertices(rotvec_to_matrix(r), x)  # noqa: E731
    assert torch.autograd.gradcheck(f, (rotvec, e))


# ------------------------------------------------------------------ the import


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return flame_arrays()


@pytest.fixture(scope="module")
def mini(arrays, tmp_path_factory) -> FlameRig:
    """Imported through the detector, as a real one would be."""
    from capture.landmarks import FaceDetector

    path = flame_pickle(tmp_path_factory.mktemp("flame") / "generic_model.pkl", arrays)
    model, triangles = read_flame(path)
    with FaceDetector(single=True) as detector:
        return make_flame(model, triangles, detector.detect, "mini", {})


def test_the_detector_finds_the_lattice_on_the_mesh(mini: FlameRig) -> None:
    away = (mini.face.neutral - lattice_table().neutral)[:SKIN_POINTS].norm(dim=-1)
    assert float(away.median()) < 0.004
    for side in ("left", "right"):
        lids = [*REGIONS[f"lid_{side}_upper"], *REGIONS[f"lid_{side}_lower"]]
        assert float(away[lids].median()) < 0.006
    upper = mini.face.neutral[list(REGIONS["lip_upper_inner"][2:-2])]
    lower = mini.face.neutral[list(REGIONS["lip_lower_inner"][2:-2])]
    jaw = mini.face.basis[ARKIT_INDEX["jawOpen"]].norm(dim=-1)
    assert float(jaw[list(REGIONS["lip_lower_inner"][2:-2])].min()) > 2 * float(
        jaw[list(REGIONS["lip_upper_inner"][2:-2])].max()
    ), "inner lips lie on their own lip"
    assert float((upper - lower)[:, 1].mean()) > -0.001


def test_names_mean_what_they_say(mini: FlameRig) -> None:
    assert mini.expression_names[:52] == ARKIT_NAMES
    assert mini.expression_names[52:] == tuple(f"flame{k:02d}" for k in range(10))
    jaw = mini.to_jaw[ARKIT_INDEX["jawOpen"]]
    assert 0.5 * JAW_OPEN_RAD < float(jaw.norm()) < 1.5 * JAW_OPEN_RAD
    assert float(jaw[0]) > 0.95 * float(jaw.norm())
    ours = generic_arkit_basis()
    for name in (
        "mouthSmileLeft",
        "browInnerUp",
        "mouthPucker",
        "jawForward",
        "cheekPuff",
        "jawLeft",
    ):
        k = ARKIT_INDEX[name]
        a, b = mini.face.basis[k, :SKIN_POINTS].flatten(), ours[k, :SKIN_POINTS].flatten()
        assert float(torch.cosine_similarity(a, b, dim=0)) > 0.85, name
    drawn = mini.source["drawn"]
    assert {"eyeBlinkLeft", "eyeWideRight", "eyeSquintLeft"} <= set(drawn)
    assert not {"mouthSmileLeft", "jawOpen", "browInnerUp"} & set(drawn)


def test_the_mesh_follows_the_lattice(mini: FlameRig) -> None:
    """What the tracker is told of a shape is what the whole head does, read at the embedding."""
    for name in ("mouthSmileLeft", "jawOpen", "flame03"):
        moved = head_of(mini, {name: 1.0}) - head_of(mini, {})
        on = mini.embedding.of(moved, mini.triangles)
        k = mini.expression_names.index(name)
        torch.testing.assert_close(on, mini.face.basis[k, :SKIN_POINTS], atol=3e-4, rtol=0)
    rest = head_of(mini, {})
    torch.testing.assert_close(rest, mini.neutral, atol=1e-5, rtol=0)
    looks = head_of(mini, {"eyeLookUpLeft": 1.0})[mini.part == LEFT_EYE] - mini.eyeballs[0]
    before = rest[mini.part == LEFT_EYE] - mini.eyeballs[0]
    front = before[:, 2].argmax()
    assert float((looks - before)[front, 1]) > 0.003


def test_rig_file_round_trip(mini: FlameRig, tmp_path: Path) -> None:
    mini.save(tmp_path / "a.safetensors")
    again = load_rig(tmp_path / "a.safetensors")
    e = torch.rand(len(mini.expression_names))
    torch.testing.assert_close(again.vertices(e), mini.vertices(e))
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    replace(mini, parents=torch.tensor([-1, 0, 1, 4, 1])).save(tmp_path / "c.safetensors")
    with pytest.raises(InputError, match=r"flame\.parents"):
        load_rig(tmp_path / "c.safetensors")


@pytest.mark.parametrize("protocol", range(5))
def test_pickles_and_npz_hold_the_same(arrays, protocol, tmp_path) -> None:
    small = {k: v if k != "shapedirs" else v[:40] for k, v in arrays.items()}
    small = {k: v[:40] if k in ("posedirs", "weights") else v for k, v in small.items()}
    path = flame_pickle(tmp_path / "m.pkl", small, protocol)
    found = read_arrays(path, tuple(LAYOUT))
    assert set(found) == set(LAYOUT)
    for key in LAYOUT:
        np.testing.assert_array_equal(found[key], small[key])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: {"shapedirs": a["shapedirs"][:, :, :10]}, r"'shapedirs' is \[5023, 3, 10\]"),
        (lambda a: {"v_template": a["v_template"][:6890]}, None),
        (lambda a: {"v_template": np.zeros((6890, 3))}, r"\[6890, 3\]"),
        (lambda a: {"weights": a["weights"] * 2}, "sum to 1"),
        (lambda a: {"f": a["f"] + 5000}, "'f' names vertices"),
        (lambda a: {"f": a["f"].astype(float)}, "'f' holds float64"),
        (lambda a: {"kintree_table": a["kintree_table"][:, ::-1].copy()}, "kintree_table"),
        (lambda a: {"v_template": a["v_template"] * np.nan}, "v_template"),
        (lambda a: {"posedirs": None}, "no 'posedirs'"),
    ],
)  # fmt: skip
def test_other_layouts_are_refused(arrays, change, words, tmp_path) -> None:
    changed = {k: v for k, v in {**arrays, **change(arrays)}.items() if v is not None}
    np.savez(tmp_path / "flame.npz", **changed)
    if words is None:
        read_flame(tmp_path / "flame.npz")
        return
    with pytest.raises(InputError, match=words):
        read_flame(tmp_path / "flame.npz")


def test_a_body_is_no_face(arrays, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(rig_store.OVERRIDE, str(tmp_path / "data"))
    np.savez(tmp_path / "flame.npz", **{**arrays, "v_template": arrays["v_template"][::-1].copy()})
    with pytest.raises(InputError, match="No face is seen"):
        rig_store.import_rig(tmp_path / "flame.npz", None, lambda: lambda picture: None)
    assert not list((tmp_path / "data").rglob("*.safetensors"))


# ------------------------------------------------------------------ pickles that would harm


class Calls:
    """Pickles as a call of something."""

    def __init__(self, function, *arguments) -> None:
        self.made = (function, arguments)

    def __reduce__(self):
        return self.made


SENTINEL = "touched-by-a-pickle"


def harmful(tmp_path: Path) -> dict[str, bytes]:
    """Pickles that would make the file SENTINEL, each by another way, and others that ask for too much."""
    target = str(tmp_path / SENTINEL)
    touch = f"touch {target}"
    code = f"open({target!r}, 'w')"
    nested = {"v_template": [{"a": (1, Calls(os.system, touch))}]}
    chain = Calls(getattr(builtins, "eval"), code)  # noqa: B009
    dump = partial(pickle.dumps, protocol=2)
    text = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"
    return {
        "system": dump({"v_template": Calls(os.system, touch)}),
        "exec": dump({"v_template": Calls(exec, code)}),
        "eval": dump(chain),
        "open": dump(Calls(open, target, "w")),
        "nested": dump(nested),
        "in reduce": dump(Calls(os.system, Calls(os.system, touch))),
        "getattr": dump(Calls(getattr, Calls(__import__, "os"), "system")),
        "partial": dump(partial(os.system, touch)),
        "protocol 0": pickle.dumps({"f": Calls(os.system, touch)}, 0),
        "protocol 5": pickle.dumps({"f": Calls(os.system, touch)}, 5),
        "unwanted key": dump({"other": Calls(os.system, touch)}),
        "numpy load": b"\x80\x02cnumpy\nload\n(U" + bytes([len(target)]) + target.encode() + b"tR.",
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93.",
        "numpy testing": b"\x80\x02cnumpy.testing._private.utils\nrunstring\n(U\x011}tR.",
        "chumpy dotted": b"\x80\x04\x8c\x06chumpy\x8c\x05ch.os\x93.",
        "scipy": b"\x80\x02cscipy.sparse\nload_npz\n(U\x01atR.",
        "reconstructor": b"\x80\x02ccopy_reg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR.",
        "object class": b"\x80\x02ccopy_reg\n_reconstructor\n(cnumpy\nndarray\ncnumpy\nndarray\nNtR.",
        "fill a function": text + b"}U\x0b__defaults__K\x01sb.",
        "fill a class": b"\x80\x02cnumpy\nndarray\n}U\x05stateK\x01sb.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"\x80\x02U\x01aQ.",
        "instance": b"(ios\nsystem\n.",
        "instance of posix": b"(S'" + touch.encode() + b"'\niposix\nsystem\n.",
        "bytes": b"\x80\x02cbuiltins\nbytes\n(J\xff\xff\xff\x7ftR.",
        "codecs": b"\x80\x02c_codecs\ndecode\n(U\x01aU\x03hextR.",
        "no dictionary": dump([1, 2, 3]),
        "long": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
        "huge": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\x00\x00a.",
        "memo": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
    }


NAMED = {
    "system": "posix.system", "nested": "posix.system", "exec": "exec", "eval": "eval",
    "getattr": "getattr|__import__", "partial": "functools.partial", "numpy load": "numpy.load",
    "scipy": "scipy.sparse.load_npz", "instance": "os.system", "protocol 0": "posix.system",
    "unwanted key": "posix.system", "dotted": "ndarray.__reduce__", "codecs": "_codecs.decode",
}  # fmt: skip


@pytest.mark.parametrize("name", list(harmful(Path("/nowhere"))))
def test_nothing_in_a_pickle_is_run(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(harmful(tmp_path)[name])
    with pytest.raises(InputError, match=NAMED.get(name, "model.pkl")) as refusal:
        read_arrays(path, tuple(LAYOUT))
    assert "model.pkl" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / SENTINEL).exists()


def shell(module: str, name: str) -> bytes:
    """Protocol 2's way to say: a new object of a class."""
    return f"c{module}\n{name}\n)\x81".encode("latin1")


def array_bytes(values: np.ndarray) -> bytes:
    """A small array of one dimension, as numpy pickles it."""
    raw, kind = values.tobytes(), values.dtype.str[1:].encode()
    dtype = b"cnumpy\ndtype\nU" + bytes([len(kind)]) + kind + b"\x85R"
    content = b"U" + bytes([len(raw)]) + raw
    state = b"(K\x01(K" + bytes([len(values)]) + b"t" + dtype + b"I00\n" + content + b"t"
    return shell("numpy", "ndarray") + state + b"b"


def greedy() -> dict[str, bytes]:
    """Pickles of a hundred bytes or so that ask for a gigabyte and more, in ways that are allowed to ask."""
    key = b"\x80\x02}U\x01f"
    nested = b"U\x02f4" + b"2\x86" * 27 + b"\x85"  # a pair of itself, 27 times over
    counts = array_bytes(np.array([0, 1 << 27]))
    parts = (
        (b"U\x06_shape", b"(K\x01K\x01t"),
        (b"U\x04data", array_bytes(np.ones(1))),
        (b"U\x07indices", array_bytes(np.zeros(1, np.int32))),
        (b"U\x06indptr", counts),
    )
    sparse = b"}(" + b"".join(k + v for k, v in parts) + b"ub"
    return {
        "room for a buffer": b"\x80\x05\x96" + (1 << 30).to_bytes(8, "little") + b"x.",
        "the text of a nested kind": key
        + shell("numpy", "ndarray")
        + b"(K\x01(K\x01tcnumpy\ndtype\n"
        + nested
        + b"RI00\nU\x00tbs.",
        "rows without end": key + shell("scipy.sparse", "csc_matrix") + sparse + b"s.",
    }


@pytest.mark.parametrize("name", list(greedy()))
def test_few_bytes_take_no_gigabytes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(greedy()[name])
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"model\.pkl"):
            read_arrays(path, ("f",))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_the_harmful_ones_would_harm(tmp_path: Path) -> None:
    """The control: Python's own unpickler runs them."""
    for name in ("system", "nested", "protocol 0", "exec"):
        pickle.loads(harmful(tmp_path)[name])  # noqa: S301 (what it shows)
        assert (tmp_path / SENTINEL).exists(), name
        (tmp_path / SENTINEL).unlink()


@pytest.mark.parametrize(
    "value", [np.array([{}], object), np.array(["a"]), np.array([1 + 2j]), 3, "x", None]
)
def test_values_that_are_no_numbers(value, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"f": value}, 2))
    with pytest.raises(InputError, match="'f' is not an array"):
        read_arrays(path, ("f",))


def test_altered_pickles_never_run_anything(arrays, tmp_path: Path, monkeypatch) -> None:
    """Bytes of a sound file changed, cut and doubled: arrays or one sentence, and nothing is called."""
    small = {k: np.asarray(v)[:2, :2].copy() for k, v in arrays.items()}
    path = flame_pickle(tmp_path / "model.pkl", small)
    whole = path.read_bytes()
    assert len(list(pickletools.genops(io.BytesIO(whole)))) > 100
    for module, name in ((os, "system"), (builtins, "exec"), (builtins, "eval")):
        monkeypatch.setattr(module, name, lambda *a, **k: pytest.fail("something was called"))
    random = np.random.default_rng(3)
    read = 0
    for trial in range(1500):
        data = bytearray(whole)
        for at in random.integers(0, len(data), 1 + trial % 5):
            data[at] = random.integers(256)
        if trial % 7 == 0:
            at = int(random.integers(len(data)))
            data = data[:at] + data[at // 2 :]
        if trial % 11 == 0:
            data = data[: int(random.integers(len(data)))]
        path.write_bytes(bytes(data))
        try:
            found = read_arrays(path, tuple(LAYOUT))
        except InputError as error:
            assert "model.pkl" in str(error)
        else:
            read += 1
            assert all(a.dtype.kind in "fiub" for a in found.values())
    assert read > 50, "small changes of numbers leave a readable file"
