"""What the README says runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs(tiny_avatar, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) < 40
    (tmp_path / "out" / "me").mkdir(parents=True)
    tiny_avatar.save(tmp_path / "out" / "me" / "me.avatar")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "torch.Size([96, 96, 3])" in capsys.readouterr().out


def test_every_folder_and_picture_that_it_names_exists():
    for name in re.findall(r"^\| `(\w+)/`", README, re.MULTILINE):
        assert (ROOT / name).is_dir(), name
    for name in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (ROOT / name).is_file(), name


def test_every_make_target_and_command_that_it_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    commands = (ROOT / "avatar" / "cli.py").read_text()
    for command in re.findall(r"^    avatar (\w+)", README, re.MULTILINE):
        assert re.search(rf'^def {command}\(|name="{command}"', commands, re.MULTILINE), command
