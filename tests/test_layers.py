"""Imports point down: the layers of the package, enforced on the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What each part may import of the project. A part is named by its longest matching prefix.
LEAVES = {
    f"avatar.{name}"
    for name in ("types", "rotations", "checks", "tensorfile", "capture_data", "flame_data")
}
MODEL = LEAVES | {"avatar.rig", "avatar.raster"}
ALLOWED: dict[str, set[str]] = {
    "avatar.types": LEAVES,
    "avatar.rotations": LEAVES,
    "avatar.checks": LEAVES,
    "avatar.tensorfile": LEAVES,
    "avatar.capture_data": LEAVES,
    "avatar.flame_data": LEAVES,
    "avatar.rig": LEAVES | {"avatar.rig"},
    "avatar.raster": LEAVES | {"avatar.raster", "cuda_ext"},
    "avatar.model": MODEL | {"avatar.model"},
    "avatar.train": MODEL | {"avatar.model", "avatar.train"},
    "avatar.drive": MODEL | {"avatar.model", "avatar.drive"},
    "avatar.export": MODEL | {"avatar.model", "avatar.export"},
    "avatar.console": LEAVES,
    "avatar.doctor": MODEL,
    "avatar.cli": {"avatar", "capture", "configs", "viewer"},
    "avatar.cli_analyse": {"avatar"},
    "avatar.cli_bench": {"avatar", "capture", "configs", "viewer"},
    "avatar.cli_capture": {"avatar", "capture"},
    "avatar.cli_clips": {"avatar", "capture"},
    "avatar.cli_common": {"avatar", "capture", "configs"},
    "avatar.cli_create": {"avatar", "capture", "viewer"},
    "avatar.cli_dataset": {"avatar", "capture"},
    "avatar.cli_eval": {"avatar", "capture"},
    "avatar.cli_export": {"avatar"},
    "avatar.cli_export_capture": {"avatar"},
    "avatar.cli_export_formats": {"avatar"},
    "avatar.cli_export_job": {"avatar"},
    "avatar.cli_export_pictures": {"avatar"},
    "avatar.cli_export_splats": {"avatar"},
    "avatar.cli_film": {"avatar"},
    "avatar.cli_fit": {"avatar", "configs", "viewer"},
    "avatar.cli_inspect": {"avatar"},
    "avatar.cli_live": {"avatar", "capture"},
    "avatar.cli_rig": {"avatar", "capture"},
    "avatar.cli_say": {"avatar", "viewer"},
    "avatar.cli_view": {"avatar", "viewer"},
    "avatar.cli_tools": {"avatar", "capture"},
    "avatar.cli_voice": {"avatar"},
    "avatar": set(),
    "capture": {"avatar", "capture"},
    "configs": {"avatar", "configs"},
    "viewer": {"avatar", "viewer"},
    "cuda_ext": {"cuda_ext"},
}
TOP = {"avatar", "capture", "configs", "viewer", "cuda_ext"}


def part_of(module: str) -> str:
    """The longest prefix of ``module`` that ALLOWED names."""
    names = module.split(".")
    for length in range(len(names), 0, -1):
        prefix = ".".join(names[:length])
        if prefix in ALLOWED:
            return prefix
    raise AssertionError(
        f"{module} is in no layer; add it to tests/test_layers.py where it belongs"
    )


def project_imports(file: Path) -> set[str]:
    """The project's own modules that a file imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write the absolute name"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in TOP}


FILES = sorted(p for top in TOP for p in (ROOT / top).rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(file: Path) -> None:
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    allowed = ALLOWED[part_of(module)]
    for name in project_imports(file):
        parts = name.split(".")
        prefixes = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
        if name.startswith("avatar.__version__"):
            continue
        assert prefixes & allowed, f"{module} imports {name}, which is not below it"


def test_the_rule_sees_a_violation(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from avatar.train import loop\n")
    assert project_imports(file) == {"avatar.train.loop"}
    assert not {"avatar", "avatar.train", "avatar.train.loop"} & ALLOWED["avatar.rig"]
