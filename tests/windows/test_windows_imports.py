"""What the client needs on Windows can be imported there, and nothing of Windows' is imported on Linux.

Each in a process of its own, which has been made to look like the other system (windows_python.py).
"""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from windows_python import find_source, imports

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = Path(__file__).with_name("windows_python.py")
WINDOWS: Final = ROOT / "lanparty" / "link" / "windows"
STARTS: Final = ["lanparty.client.__main__", "lanparty.client.desktop"]


def run(*argv: str, directory: Path = ROOT) -> str:
    command = [sys.executable, "-W", "ignore", *argv]
    paths = [str(directory), str(PROGRAM.parent)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=directory, env={"PYTHONPATH": ":".join(paths)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def on_windows(package: str, *roots: str, directory: Path = ROOT) -> tuple[list[str], list[str]]:
    """What cannot be imported there, in words; and all that was tried."""
    answer: dict[str, Any] = json.loads(run(str(PROGRAM), package, *roots, directory=directory))
    return [f"{' -> '.join(each['way'])}: {each['error']}" for each in answer["failures"]], answer["imported"]


def windows_modules() -> list[str]:
    files = [file.relative_to(ROOT).with_suffix("") for file in sorted(WINDOWS.rglob("*.py"))]
    return [".".join(file.parts).removesuffix(".__init__") for file in files]


def test_what_the_client_needs_can_be_imported_on_windows() -> None:
    failures, imported = on_windows("lanparty", *STARTS, *windows_modules())
    assert not failures, "\n".join(failures)
    # Not by the names that were given, but by what these import, some of it inside functions.
    assert {"lanparty.client.app", "lanparty.link.machine", "lanparty.quic.sockets", "lanparty.uplink.loop"} <= set(
        imported
    )
    assert not [name for name in imported if name.startswith(("lanparty.demo", "lanparty.gateway", "lanparty.relay"))]


def test_the_other_programs_can_say_what_they_need_on_windows() -> None:
    """And the relay needs nothing that Windows does not have."""
    failures, imported = on_windows("lanparty", *[f"lanparty.{name}.__main__" for name in ("demo", "gateway", "relay")])
    assert not failures, "\n".join(failures)
    assert "lanparty.relay.switch" in imported
    assert not {"lanparty.demo.sandbox", "lanparty.gateway.app"} & set(imported)


def test_every_function_is_found_by_its_dll() -> None:
    """The way that only Windows goes: WinDLL, from Windows' own directory."""
    code = """
import ctypes, importlib, json, pkgutil, sys, windows_python
windows_python.load_others("lanparty")
windows_python.pretend(dlls := [])
loaded = []
make = ctypes.WinDLL
ctypes.WinDLL = lambda name, **how: loaded.append((name, how)) or make(name)
from lanparty.link.windows import winapi
from lanparty.link.windows.winapi.dll import Library
modules = [importlib.import_module(f"{winapi.__name__}.{info.name}") for info in pkgutil.iter_modules(winapi.__path__)]
libraries = [value for module in modules for value in vars(module).values() if isinstance(value, Library)]
for library in libraries:
    for function, (result, arguments) in library.prototypes.items():
        bound = getattr(library, function)
        assert (bound.restype, bound.argtypes) == (result, arguments), function
print(json.dumps([loaded, sorted({library.name for library in libraries})]))
"""
    loaded, names = json.loads(run("-c", code))
    assert sorted({name for name, _ in loaded}) == names
    assert {"iphlpapi.dll", "kernel32.dll"} <= set(names)
    load_library_search_system32 = 0x800
    assert all(how == {"use_last_error": True, "winmode": load_library_search_system32} for _, how in loaded)


ON_LINUX: Final = [
    "lanparty.client.__main__",
    "lanparty.link.linux_machine",
    "lanparty.gateway.app",
    "lanparty.relay.__main__",
]


def loaded_on_linux(*names: str) -> set[str]:
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; print(*sys.modules)"
    return {name for name in run("-c", code, *names).split() if name.startswith("lanparty.")}


def test_linux_imports_nothing_of_windows() -> None:
    loaded = loaded_on_linux(*ON_LINUX)
    assert set(ON_LINUX) <= loaded
    assert not [name for name in loaded if name.startswith("lanparty.link.windows")]


def test_the_double_click_start_imports_no_more_than_declarations_on_linux() -> None:
    windows = {name for name in loaded_on_linux("lanparty.client.desktop") if name.startswith("lanparty.link.windows")}
    assert not [
        name for name in windows - {"lanparty.link.windows"} if not name.startswith("lanparty.link.windows.winapi")
    ]


def test_linux_would_import_nothing_of_windows_later() -> None:
    """Neither inside a function, where Linux comes by."""
    ways = {
        start: [start] for start in ["lanparty.client.__main__", "lanparty.gateway.__main__", "lanparty.relay.__main__"]
    }
    waiting = list(ways)
    while waiting:
        module = waiting.pop(0)
        source = find_source(module, "lanparty", [str(ROOT)])
        assert source is not None
        for name in imports(ast.parse(source.read_text()), module, source.name == "__init__.py", "linux"):
            if name not in ways and find_source(name, "lanparty", [str(ROOT)]):
                ways[name] = [*ways[module], name]
                waiting.append(name)
    assert "lanparty.link.linux_machine" in ways
    assert not [" -> ".join(way) for name, way in ways.items() if name.startswith("lanparty.link.windows")]


MISTAKES: Final = {
    "fcntl": ("import fcntl", "p.main -> p.far: ModuleNotFoundError: Windows' Python has no module 'fcntl'"),
    "pyroute2": ("from pyroute2 import IPRoute", "p.main -> p.far: ModuleNotFoundError: Windows' Python has no module"),
    "a function of os": (
        "import os\nTIDY = os.fchmod",
        "p.main -> p.far: AttributeError: module 'os' has no attribute",
    ),
    "a flag of os": ("import os\nFLAGS = os.O_RDONLY | os.O_CLOEXEC", "module 'os' has no attribute 'O_CLOEXEC'"),
    "from os": ("from os import getuid", "cannot import name 'getuid' from 'os'"),
    "a family": ("import socket\nF = socket.AF_PACKET", "module 'socket' has no attribute 'AF_PACKET'"),
    "a method": ("import socket\nF = socket.socket.recvmsg_into", "has no attribute 'recvmsg_into'"),
    "a signal": ("import signal\nKILL = signal.SIGKILL", "module 'signal' has no attribute 'SIGKILL'"),
    "a clock": ("import time\nC = time.CLOCK_BOOTTIME", "module 'time' has no attribute 'CLOCK_BOOTTIME'"),
    "trio's sockets": ("import trio\nF = trio.socket.AF_UNIX", "has no attribute 'AF_UNIX'"),
    "inside a function": ("def late():\n    import termios", "p.main -> p.far -> termios: ModuleNotFoundError"),
    "behind the wrong test": (
        "import sys\nif sys.platform == 'win32':\n    import pwd",
        "Windows' Python has no module 'pwd'",
    ),
    "for Linux only": (
        "import sys\nassert sys.platform == 'linux'",
        "p.main -> p.far: AssertionError: it is not for Windows",
    ),
    "a DLL at once": (
        "import ctypes\nK = ctypes.WinDLL('kernel32.dll')",
        "p.main: loads kernel32.dll when it is imported",
    ),
    "trio's loop at once": ("import trio\nI = trio.lowlevel.current_iocp()", "this works on Windows only"),
}
BEHIND: Final = """
import sys
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import pwd
if sys.platform == "win32":
    import msvcrt
    import winreg
else:
    import fcntl
if not sys.platform == "win32":
    import termios
def late():
    if sys.platform != "win32":
        from p import lost
    elif sys.platform == "win32":
        from . import there
KEY = winreg.HKEY_LOCAL_MACHINE
"""


def package(directory: Path, far: str) -> None:
    (directory / "p").mkdir()
    for name, text in {"__init__": "", "main": "from p import far", "far": far, "there": "", "lost": "1 / 0"}.items():
        (directory / "p" / f"{name}.py").write_text(text)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_with_the_way_to_it(mistake: str, tmp_path: Path) -> None:
    text, words = MISTAKES[mistake]
    package(tmp_path, text)
    failures, _ = on_windows("p", "p.main", directory=tmp_path)
    assert [failure for failure in failures if words in failure], failures


def test_what_is_behind_a_test_for_the_platform_is_no_mistake(tmp_path: Path) -> None:
    package(tmp_path, BEHIND)
    failures, imported = on_windows("p", "p.main", directory=tmp_path)
    assert not failures
    assert sorted(imported) == ["p", "p.far", "p.main", "p.there"]
