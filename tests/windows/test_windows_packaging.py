"""The recipe for lanparty.exe: what it names exists, it asks for what was decided, and what it builds starts."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lanparty

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "docs" / "windows" / "lanparty.spec"


class Recorder:
    """Stands for PyInstaller's builders: a spec is a Python file that calls them."""

    def __init__(self):
        self.calls = {}

    def builder(self, name):
        def build(*arguments, **settings):
            self.calls[name] = arguments, settings
            return type(name, (), {"pure": [], "scripts": [], "binaries": [], "datas": []})()

        return build


@pytest.fixture(scope="module")
def recipe():
    """What the spec asks PyInstaller for, and the names that it defines."""
    recorder = Recorder()
    names = {name: recorder.builder(name) for name in ("Analysis", "PYZ", "EXE", "COLLECT")}
    names["SPECPATH"] = str(SPEC.parent)
    exec(compile(SPEC.read_text(), str(SPEC), "exec"), names)
    return recorder.calls, names


def test_every_module_that_is_named_exists(recipe):
    calls, _ = recipe
    settings = calls["Analysis"][1]
    missing = [name for name in settings["hiddenimports"] if importlib.util.find_spec(name) is None]
    assert not missing
    ours = [name for name in settings["excludes"] if name.startswith("lanparty.")]
    assert ours
    assert not [name for name in ours if importlib.util.find_spec(name) is None]


def test_nothing_that_the_client_imports_is_left_out(recipe):
    """What is excluded on Windows, too; the modules are those of a client that has just been imported."""
    calls, _ = recipe
    code = "import sys, lanparty.client.desktop; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert "lanparty.client.app" in loaded
    assert not set(calls["Analysis"][1]["excludes"]) & set(loaded)


def test_it_starts_the_desktop_start(recipe):
    calls, _ = recipe
    (scripts,), _ = calls["Analysis"]
    assert [Path(script).relative_to(ROOT).as_posix() for script in scripts] == ["lanparty/client/desktop.py"]
    assert 'if __name__ == "__main__":' in Path(scripts[0]).read_text()


def test_a_console_that_asks_for_rights_itself_and_a_directory_of_files(recipe):
    calls, _ = recipe
    settings = calls["EXE"][1]
    assert (settings["console"], settings["uac_admin"], settings["upx"]) == (True, False, False)
    assert settings["exclude_binaries"] is True
    assert calls["COLLECT"][1]["name"] == "lanparty"


def test_the_version_can_be_a_resource():
    assert re.fullmatch(r"\d+\.\d+\.\d+", lanparty.__version__)


def test_the_pages_commands_name_what_is_there():
    page = (ROOT / "docs" / "windows.md").read_text()
    assert r"docs\windows\lanparty.spec" in page
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("PyInstaller") is None, reason="PyInstaller is not installed")
def test_it_builds_and_what_it_builds_starts(recipe, tmp_path):
    """With this system's PyInstaller; `nox -s package`."""
    where = ["--distpath", str(tmp_path / "dist"), "--workpath", str(tmp_path / "work")]
    build = [sys.executable, "-m", "PyInstaller", "--noconfirm", *where, str(SPEC)]
    made = subprocess.run(build, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert made.returncode == 0, made.stderr
    assert [name for name in recipe[1]["HIDDEN"] if f"Hidden import {name!r} not found" in made.stderr] == []
    program = tmp_path / "dist" / "lanparty" / ("lanparty.exe" if sys.platform == "win32" else "lanparty")
    environment = {"HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path), "SYSTEMROOT": os.environ.get("SYSTEMROOT", "")}

    def run(*arguments):
        return subprocess.run(
            [program, *arguments], input="", capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )

    helped, asked = run("--help"), run()
    assert helped.returncode == 0
    assert "--relay HOST[:PORT]" in helped.stdout
    assert asked.returncode == 2
    assert "Relay: lanparty: error: Nobody answers" in asked.stdout
