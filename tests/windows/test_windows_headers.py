"""Every declaration in lanparty/link/windows/winapi against Microsoft's, as Debian's mingw-w64 headers have them.

And that the comparison can fail: for a 32-bit Windows, with each assertion turned around, and with one thing wrong in
a small module that is right otherwise.
"""

import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest
from header_check import I686, X64, Checks, DeclarationError, Lacking, Section, check, compile_c, generate

from lanparty.link.windows import winapi
from lanparty.link.windows.winapi.dll import Library

MODULES: Final = sorted(info.name for info in pkgutil.iter_modules(winapi.__path__))


def _tap(name: str, request: int) -> Lacking:
    """An IOCTL of the adapter's driver; CTL_CODE is winioctl.h's."""
    code = f"CTL_CODE(FILE_DEVICE_UNKNOWN, {request}, METHOD_BUFFERED, FILE_ANY_ACCESS)"
    return Lacking([name], f"#define {name} {code}", "tap-windows6, src/tap-windows.h, TAP_WIN_CONTROL_CODE")


LACKING: Final = [
    _tap("TAP_WIN_IOCTL_GET_MAC", 1),
    _tap("TAP_WIN_IOCTL_GET_VERSION", 2),
    _tap("TAP_WIN_IOCTL_GET_MTU", 3),
    _tap("TAP_WIN_IOCTL_SET_MEDIA_STATUS", 6),
    Lacking(
        ["ERROR_NO_SUCH_DEVICE"], "#define ERROR_NO_SUCH_DEVICE 433", "Microsoft Learn, System Error Codes (0-499)"
    ),
    Lacking(
        ["DNS_INTERFACE_SETTINGS", "DNS_INTERFACE_SETTINGS_VERSION1", "DNS_SETTING_IPV6", "DNS_SETTING_NAMESERVER"],
        """\
#include <iphlpapi.h>
#define DNS_INTERFACE_SETTINGS_VERSION1 1
#define DNS_SETTING_IPV6 0x0001
#define DNS_SETTING_NAMESERVER 0x0002
typedef struct { ULONG Version; ULONG64 Flags; PWSTR Domain, NameServer, SearchList; ULONG RegistrationEnabled,
    RegisterAdapterName, EnableLLMNR, QueryAdapterName; PWSTR ProfileNameServer; } DNS_INTERFACE_SETTINGS;
NETIO_STATUS WINAPI SetInterfaceDnsSettings(GUID Interface, const DNS_INTERFACE_SETTINGS *Settings);
NETIO_STATUS WINAPI GetInterfaceDnsSettings(GUID Interface, DNS_INTERFACE_SETTINGS *Settings);
VOID WINAPI FreeInterfaceDnsSettings(DNS_INTERFACE_SETTINGS *Settings);""",
        "Microsoft Learn, netioapi.h: DNS_INTERFACE_SETTINGS, SetInterfaceDnsSettings and their like",
    ),
]
"""What mingw-w64 does not have, and what says how it is instead."""


@pytest.fixture(scope="module", autouse=True)
def compilers() -> None:
    missing = [compiler for compiler in (X64, I686) if shutil.which(compiler) is None]
    if missing:
        text = f"no {' and no '.join(missing)}: apt-get install gcc-mingw-w64-x86-64-win32 gcc-mingw-w64-i686-win32"
        if os.environ.get("CI") or os.environ.get("LANPARTY_LAN_REQUIRED"):
            pytest.fail(text)
        pytest.skip(text)


def section(name: str) -> Section:
    module: ModuleType = importlib.import_module(f"{winapi.__name__}.{name}")
    return Section.of(f"winapi/{name}.py", inspect.getsource(module), vars(module))


def sections() -> list[Section]:
    return [section(name) for name in MODULES]


def needed(of: list[Section]) -> list[Lacking]:
    own = {name for part in of for name in part.own}
    return [missing for missing in LACKING if own & set(missing.names)]


@pytest.fixture(scope="module")
def checks(compilers: None, tmp_path_factory: pytest.TempPathFactory) -> Checks:
    return generate(sections(), tmp_path_factory.mktemp("headers"), LACKING)


def test_all_agrees_with_the_headers(checks: Checks, tmp_path: Path) -> None:
    disagreements = check(checks, tmp_path)
    assert not disagreements, "\n".join(disagreements)


def test_each_module_is_compared(checks: Checks) -> None:
    compared = {each.what.split(":")[0] for each in checks.assertions}
    assert compared == {part.name for part in sections()}


def test_what_is_lacking_is_declared_somewhere() -> None:
    own = {name for part in sections() for name in part.own}
    assert not [missing for missing in LACKING if not own & set(missing.names)]


def exported(dll: str) -> set[str]:
    """What mingw-w64's linker finds in a DLL."""
    archive = f"lib{Path(dll).stem}.a"
    file = subprocess.run(
        [X64, f"-print-file-name={archive}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert Path(file).is_absolute(), f"there is no {archive}"
    nm = X64.replace("gcc", "nm")
    symbols = subprocess.run([nm, "-g", file], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r" __imp_(\w+)$", symbols, re.MULTILINE))


def test_each_function_is_in_its_dll() -> None:
    libraries = [value for part in sections() for value in part.own.values() if isinstance(value, Library)]
    dlls = {library.name: exported(library.name) for library in libraries}
    lacking = " ".join(missing.c for missing in LACKING)
    absent = [
        f"{library.name} has no {function}"
        for library in libraries
        for function in library.prototypes
        if function not in dlls[library.name] and f" {function}(" not in lacking
    ]
    assert not absent
    assert "CloseHandle" in dlls["kernel32.dll"]
    assert "CloseHandle" not in dlls["iphlpapi.dll"]


def test_a_32_bit_compiler_does_not_agree(checks: Checks, tmp_path: Path) -> None:
    """The same file: pointers, and all that stands behind one, are elsewhere there."""
    disagreements = compile_c(I686, checks.program(), tmp_path)
    assert len([text for text in disagreements if "the headers do not agree (static assertion failed" in text]) > 100


def test_every_assertion_can_fail(checks: Checks, tmp_path: Path) -> None:
    wrong = checks.program(wrong=True)
    assert len(compile_c(X64, wrong, tmp_path)) == len(wrong.about) == len(checks.assertions) > 1000


SAMPLE: Final = """
import ctypes
import enum
from lanparty.link.windows.winapi.base import BOOL, BYTE, DWORD, HANDLE, LPWSTR, PVOID, ULONG, ULONG64, USHORT, WCHAR

HEADERS = ("winsock2.h", "ws2tcpip.h", "iphlpapi.h", "netlistmgr.h")

ERROR_IO_PENDING = 997
IfOperStatusDown = 2
_LOAD_LIBRARY_SEARCH_SYSTEM32 = 0x800
HKEY = ctypes.c_void_p
class NL_DAD_STATE(enum.IntEnum):
    IpDadStatePreferred = 4

class _INFO(ctypes.Structure):
    _fields_ = [("Reserved", ULONG64, 24), ("NetLuidIndex", ULONG64, 24), ("IfType", ULONG64, 16)]
class NET_LUID(ctypes.Union):
    _fields_ = [("Value", ULONG64), ("Info", _INFO)]
class sockaddr_in(ctypes.Structure):
    _fields_ = [("sin_family", ctypes.c_int16), ("sin_port", USHORT), ("sin_addr", BYTE * 4), ("sin_zero", BYTE * 8)]
class _PLACE(ctypes.Structure):
    _fields_ = [("Offset", DWORD), ("OffsetHigh", DWORD)]
class _WHERE(ctypes.Union):
    _anonymous_ = ("place",)
    _fields_ = [("place", _PLACE), ("Pointer", PVOID)]
class OVERLAPPED(ctypes.Structure):
    _anonymous_ = ("where",)
    _fields_ = [("Internal", ULONG64), ("InternalHigh", ULONG64), ("where", _WHERE), ("hEvent", HANDLE)]
class GUID(ctypes.Structure):
    _fields_ = [("Data1", ULONG), ("Data2", USHORT), ("Data3", USHORT), ("Data4", BYTE * 8)]
class SYSTEM_INFO(ctypes.Structure):
    _fields_ = [("dwOemId", DWORD), ("dwPageSize", DWORD), ("lpMinimumApplicationAddress", PVOID),
                ("lpMaximumApplicationAddress", PVOID), ("dwActiveProcessorMask", ULONG64),
                ("dwNumberOfProcessors", DWORD), ("dwProcessorType", DWORD), ("dwAllocationGranularity", DWORD),
                ("wProcessorLevel", USHORT), ("wProcessorRevision", USHORT)]

IID_INetworkListManager = GUID(0xDCB00000, 0x570F, 0x4A9B, (BYTE * 8)(0x8D, 0x69, 0x19, 0x9F, 0xDB, 0xA5, 0x72, 0x3B))
PTIMERAPCROUTINE = ctypes.CFUNCTYPE(None, PVOID, DWORD, DWORD)
PROTOTYPES = {
    "CreateFileW": (HANDLE, (LPWSTR, DWORD, DWORD, PVOID, DWORD, DWORD, HANDLE)),
    "ReadFile": (BOOL, (HANDLE, PVOID, DWORD, ctypes.POINTER(DWORD), ctypes.POINTER(OVERLAPPED))),
    "ConvertInterfaceLuidToAlias": (DWORD, (ctypes.POINTER(NET_LUID), LPWSTR, ctypes.c_size_t)),
    "CloseHandle": (BOOL, (HANDLE,)),
    "Sleep": (None, (DWORD,)),
    "GetTickCount64": (ULONG64, ()),
}
VTABLES = {"INetworkListManager": {"GetNetwork": (8, (ctypes.c_int32, (PVOID, GUID, ctypes.POINTER(PVOID))))}}
"""
# The last word: what the complaint has to name.
MISTAKES: Final = {
    "a value": ("IO_PENDING = 997", "IO_PENDING = 996", "ERROR_IO_PENDING"),
    "a value in an enumeration": ("IfOperStatusDown = 2", "IfOperStatusDown = 3", "IfOperStatusDown"),
    "a value of our enumeration": ("IpDadStatePreferred = 4", "IpDadStatePreferred = 3", "IpDadStatePreferred"),
    "a value for this module only": ("SYSTEM32 = 0x800", "SYSTEM32 = 0x400", "_LOAD_LIBRARY_SEARCH_SYSTEM32"),
    "a name that is not there": ("ERROR_IO_PENDING", "ERROR_IO_PENDINK", "ERROR_IO_PENDINK"),
    "a typedef": ("HKEY = ctypes.c_void_p", "HKEY = DWORD", "HKEY"),
    "an order": (
        '("Offset", DWORD), ("OffsetHigh", DWORD)',
        '("OffsetHigh", DWORD), ("Offset", DWORD)',
        "Offset is at",
    ),
    "a size in the middle": ('"sin_addr", BYTE * 4', '"sin_addr", BYTE * 8', "sin_addr has"),
    "a field left out": (', ("hEvent", HANDLE)', "", "OVERLAPPED has"),
    "a sign": ('"sin_port", USHORT', '"sin_port", ctypes.c_int16', "sin_port is"),
    "an integer for a pointer": (
        'MinimumApplicationAddress", PVOID',
        'MinimumApplicationAddress", ULONG64',
        "MinimumApp",
    ),
    "a pointer for an integer": ('ActiveProcessorMask", ULONG64', 'ActiveProcessorMask", PVOID', "ActiveProcessorMask"),
    "a bit field's width": ('"NetLuidIndex", ULONG64, 24', '"NetLuidIndex", ULONG64, 23', "NetLuidIndex"),
    "a GUID": ("0x72, 0x3B", "0x72, 0x3C", "IID_INetworkListManager"),
    "a callback's argument": ("(None, PVOID, DWORD, DWORD)", "(None, PVOID, ULONG64, DWORD)", "PTIMERAPCROUTINE"),
    "an argument too many": (
        '"CloseHandle": (BOOL, (HANDLE,))',
        '"CloseHandle": (BOOL, (HANDLE, DWORD))',
        "CloseHandle",
    ),
    "an argument too few": ("(HANDLE, PVOID, DWORD, ctypes", "(HANDLE, DWORD, ctypes", "ReadFile"),
    "a wide argument": ("(LPWSTR, DWORD, DWORD,", "(LPWSTR, ULONG64, DWORD,", "CreateFileW() argument 2"),
    "a narrow argument": ("LPWSTR, ctypes.c_size_t)", "LPWSTR, DWORD)", "ConvertInterfaceLuidToAlias() argument 3"),
    "a pointer left out": ("ctypes.POINTER(DWORD), ctypes", "DWORD, ctypes", "ReadFile() argument 4"),
    "a handle as a number": ("DWORD, DWORD, HANDLE))", "DWORD, DWORD, ULONG64))", "CreateFileW() argument 7"),
    "a pointer to something else": ("POINTER(OVERLAPPED)", "POINTER(NET_LUID)", "ReadFile() argument 5"),
    "a pointer to something wider": ("ctypes.POINTER(DWORD), ", "ctypes.POINTER(ULONG64), ", "ReadFile() argument 4"),
    "a text of narrow letters": (
        "(LPWSTR, DWORD, DWORD,",
        "(ctypes.c_char_p, DWORD, DWORD,",
        "CreateFileW() argument 1",
    ),
    "a narrow result": ('GetTickCount64": (ULONG64', 'GetTickCount64": (DWORD', "GetTickCount64() gives"),
    "a result where there is none": ('"Sleep": (None', '"Sleep": (BOOL', "Sleep() gives"),
    "no result where there is one": ('"CloseHandle": (BOOL', '"CloseHandle": (None', "CloseHandle() gives"),
    "a slot": ("(8, (ctypes.c_int32", "(9, (ctypes.c_int32", "INetworkListManager.GetNetwork() is slot"),
    "a method's argument": (
        "(PVOID, GUID, ctypes",
        "(PVOID, PVOID, ctypes",
        "INetworkListManager.GetNetwork() argument 2",
    ),
}


def sample(name: str, source: str) -> Section:
    namespace: dict[str, object] = {"__name__": name.replace(" ", "_")}
    exec(source, namespace)
    return Section.of(name, source, namespace)


def test_each_mistake_is_found_and_named(tmp_path: Path) -> None:
    changed = {}
    for mistake, (right, wrong, _) in MISTAKES.items():
        assert SAMPLE.count(right) == 1, mistake
        changed[mistake] = sample(mistake, SAMPLE.replace(right, wrong))
    found = check(generate([sample("right", SAMPLE), *changed.values()], tmp_path), tmp_path)
    assert not [text for text in found if text.startswith("right:")]
    for mistake, (_, _, named) in MISTAKES.items():
        complaints = [text for text in found if text.startswith(f"{mistake}:")]
        assert [text for text in complaints if named in text], (mistake, complaints)


def test_a_function_that_the_headers_lack_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"sample: CloseTheHandle\(\) is declared"):
        generate([sample("sample", SAMPLE.replace('"CloseHandle"', '"CloseTheHandle"'))], tmp_path)


def test_a_structure_without_a_name_has_to_be_part_of_one(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="_INFO: no field"):
        generate([sample("sample", SAMPLE.replace(', ("Info", _INFO)', ""))], tmp_path)


def test_a_module_has_to_name_its_headers() -> None:
    with pytest.raises(DeclarationError, match="sample does not say which headers"):
        sample("sample", SAMPLE.replace("HEADERS =", "HEADER ="))


def test_a_type_that_has_other_sizes_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="c_wchar_p has another size"):
        generate([sample("sample", SAMPLE.replace("(BOOL, (HANDLE,))", "(BOOL, (ctypes.c_wchar_p,))"))], tmp_path)
