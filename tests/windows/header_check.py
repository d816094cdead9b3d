"""Holds ctypes declarations against C headers: what Python says, C has to agree with, at compile time.

    1. read a module's own names (`Section`): structures, constants, typedefs, callbacks, GUIDs, prototypes, vtables
    2. let the compiler print what the headers declare for each function, callback and method (`-aux-info`)
    3. write a C file of static assertions: sizes, offsets, values, signs, slots, the types of results and arguments
    4. compile it; each error is told as what our declaration says and in which module

How a module is written so that this works is in lanparty/link/windows/winapi/__init__.py. Bit fields have no offset in
C: for each a function sets it and looks at the bytes, which the optimiser does at compile time.

Owns: the generator and the call of the compiler. Must not know: which modules there are.
"""

from __future__ import annotations

import ast
import ctypes
import enum
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from lanparty.link.windows.winapi.dll import Library, Prototype

__all__ = ["DeclarationError", "Lacking", "Section", "check", "compile_c", "generate"]

X64: Final = "x86_64-w64-mingw32-gcc"
I686: Final = "i686-w64-mingw32-gcc"

# Windows 10 is the oldest that is supported; headers show what it has.
OPTIONS: Final = ["-std=gnu11", "-D_WIN32_WINNT=0x0A00", "-DNTDDI_VERSION=0x0A000000", "-DUNICODE", "-DCINTERFACE",
                  "-DCOBJMACROS", "-fmax-errors=0", "-fdiagnostics-color=never", "-w"]  # fmt: skip

# guiddef.h defines DEFINE_GUID anew each time that it is included. Its copy here makes numbers of a GUID, which are
# constants to C, as the bytes of a variable are not.
GUIDDEF: Final = """\
#include_next <guiddef.h>
#undef DEFINE_GUID
#define DEFINE_GUID(name, l, w1, w2, b1, b2, b3, b4, b5, b6, b7, b8) enum { \\
    name##__0 = l, name##__1 = w1, name##__2 = w2, name##__3 = b1, name##__4 = b2, name##__5 = b3, name##__6 = b4, \\
    name##__7 = b5, name##__8 = b6, name##__9 = b7, name##__10 = b8 }
"""

# What __builtin_classify_type gives (gcc/typeclass.h).
_INTEGER: Final = 1
_POINTER: Final = 5
_STRUCT: Final = 12
_UNION: Final = 13

_UNSIGNED: Final = frozenset("BHILQ")
_SIGNED: Final = frozenset("bhilq")


class DeclarationError(Exception):
    """A declaration is not written so that it can be checked."""


@attrs.frozen
class Lacking:
    """What mingw-w64's headers do not have, so that something else has to say what is right."""

    names: Sequence[str]
    c: str
    """Their definition, computed by means of the headers as far as possible."""
    source: str
    """Where that is from."""


@attrs.frozen
class Section:
    """The own names of one module."""

    name: str
    headers: Sequence[str]
    own: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, source: str, namespace: Mapping[str, Any]) -> Section:
        """Read the module ``name``. Raises DeclarationError."""
        headers = namespace.get("HEADERS")
        if not isinstance(headers, tuple):
            raise DeclarationError(
                f"{name} does not say which headers declare what it declares: give it a module-level"
                ' HEADERS: Final = ("winsock2.h", ...), see lanparty/link/windows/winapi/__init__.py'
            )
        return cls(name, headers, {key: namespace[key] for key in _own_names(source) if key in namespace})


def _own_names(source: str) -> Iterator[str]:
    """Names that a module defines itself, at its top level."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


@attrs.frozen
class Assertion:
    """``expression`` is ``number``, as C sees it."""

    what: str
    expression: str
    number: int = 1

    def line(self, *, wrong: bool) -> str:
        """A line of C; ``wrong``: with a number that is never right."""
        number = (self.number + 1) % (1 << 64) if wrong else self.number
        return f'_Static_assert((unsigned long long)({self.expression}) == {number}ULL, "");'


@attrs.frozen
class Bits:
    """Setting the bit field ``path`` to ones gives ``data``."""

    what: str
    owner: str
    path: str
    data: bytes

    def line(self, index: int) -> str:
        """A line of C."""
        differs = " || ".join(f"x.b[{at}] != {byte}" for at, byte in enumerate(self.data))
        return (
            f'extern void wrong_{index}(void) __attribute__((error("other bits"))); void bits_{index}(void) {{ '
            f"union {{ {self.owner} s; unsigned char b[sizeof({self.owner})]; }} x; "
            f"__builtin_memset(&x, 0, sizeof x); x.s.{self.path} = -1; if ({differs}) wrong_{index}(); }}"
        )


@attrs.frozen
class Probe:
    """A function type of the headers that is to agree with ``prototype``."""

    what: str
    expression: str
    prototype: Prototype


@attrs.frozen
class Program:
    """A C file, and what each of its lines is about."""

    text: str
    about: Mapping[int, str]


# 1. What a module declares


def _c_name(cls: type) -> str:
    """Typedefs have capital letters; without any it is a tag, as of ``struct sockaddr_in``."""
    if cls.__name__ != cls.__name__.lower():
        return cls.__name__
    return f"{'union' if issubclass(cls, ctypes.Union) else 'struct'} {cls.__name__}"


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, ctypes.Structure | ctypes.Union)


def _is_ctype(value: Any) -> bool:
    """Whether it is a type other than a record, to be found in C as a typedef."""
    kinds = (ctypes._SimpleCData, ctypes._Pointer, ctypes._CFuncPtr, ctypes.Array)
    return isinstance(value, type) and issubclass(value, kinds)


def _agrees(c_type: str, kind: Any, what: str) -> str:
    """C that is true when the type ``c_type`` of the headers is ``kind``, as far as a caller could tell."""
    if kind is None:
        return f"__builtin_types_compatible_p({c_type}, void)"
    if not isinstance(kind, type):
        raise DeclarationError(f"{what}: {kind!r} is no ctypes type")
    c_class = f"__builtin_classify_type(*(__typeof__({c_type}) *)0)"
    sized = f"sizeof({c_type}) == {ctypes.sizeof(kind)}"
    if issubclass(kind, ctypes._Pointer):
        target, wanted = f"__typeof__(*({c_type})0)", kind._type_
        inner = _agrees(target, wanted, what)
        return f"({c_class} == {_POINTER} && (__builtin_types_compatible_p({target}, void) || ({inner})))"
    if issubclass(kind, ctypes._CFuncPtr):
        return f"({c_class} == {_POINTER})"
    if issubclass(kind, ctypes.Array) and kind._type_ in (ctypes.c_uint8, ctypes.c_char):
        return sized  # Bytes stand for anything of their size.
    if issubclass(kind, ctypes.Array):
        element = _agrees(f"__typeof__((*(__typeof__({c_type}) *)0)[0])", kind._type_, what)
        return f"({sized} && ({element}))"
    if _is_record(kind):
        same = f"__builtin_types_compatible_p({c_type}, {_c_name(kind)})"
        return sized if kind.__name__.startswith("_") else f"({sized} && {same})"
    code: str = kind._type_
    if code == "P":
        return f"({c_class} == {_POINTER})"
    if code == "z":
        return _agrees(c_type, ctypes.POINTER(ctypes.c_int8), what)
    if code in _UNSIGNED | _SIGNED:
        # An enumeration is an unsigned int to gcc, and an int to Microsoft's compiler: either will do for it.
        number = f"__typeof__(__builtin_choose_expr({c_class} == {_INTEGER}, *(__typeof__({c_type}) *)0, 0))"
        sign = f"(({number})-1 < 0) == {int(code in _SIGNED)} || __builtin_types_compatible_p({number}, unsigned int)"
        return f"({sized} && ({c_class} == {_INTEGER} && ({sign}) || {c_class} == {_STRUCT} || {c_class} == {_UNION}))"
    raise DeclarationError(f"{what}: {kind.__name__} has another size on other systems; take a type of winapi/base.py")


def _record(cls: Any, where: str) -> Iterator[Assertion | Bits]:
    """Everything about one structure or union that has a name."""
    name = _c_name(cls)
    what = f"{where}: {cls.__name__}"
    yield Assertion(f"{what} has {ctypes.sizeof(cls)} bytes", f"sizeof({name})", ctypes.sizeof(cls))
    yield from _fields(cls, cls, name, what, "", (), 0)


def _fields(
    top: Any, cls: Any, name: str, what: str, c_path: str, path: tuple[str, ...], base: int
) -> Iterator[Assertion | Bits]:
    for field, kind, *bits in (entry for part in reversed(cls.__mro__) for entry in vars(part).get("_fields_", ())):
        offset = base + getattr(cls, field).offset
        if field in getattr(cls, "_anonymous_", ()):
            yield from _fields(top, kind, name, what, c_path, (*path, field), offset)
            continue
        c_field = c_path + field
        place = f"(({name} *)0)->{c_field}"
        if bits:
            yield Bits(f"{what}.{c_field} is {bits[0]} bits", name, c_field, _ones(top, path, field))
            continue
        yield Assertion(f"{what}.{c_field} is at {offset}", f"offsetof({name}, {c_field})", offset)
        yield Assertion(f"{what}.{c_field} has {ctypes.sizeof(kind)} bytes", f"sizeof({place})", ctypes.sizeof(kind))
        yield Assertion(f"{what}.{c_field} is {kind.__name__}", _agrees(f"__typeof__({place})", kind, what))
        if _is_record(kind) and kind.__name__.startswith("_"):
            yield from _fields(top, kind, name, what, f"{c_field}.", (*path, field), offset)


def _ones(top: Any, path: Sequence[str], field: str) -> bytes:
    whole = owner = top()
    for step in path:
        owner = getattr(owner, step)
    setattr(owner, field, -1)
    return bytes(whole)


def _guid(name: str, value: Any, what: str) -> Assertion:
    data = bytes(value)
    numbers = [int.from_bytes(data[:4], "little"), *(int.from_bytes(data[at : at + 2], "little") for at in (4, 6))]
    numbers += data[8:]
    same = " && ".join(f"(unsigned)({name}__{index}) == {number}U" for index, number in enumerate(numbers))
    return Assertion(f"{what} is {data.hex()} in memory", same)


def _declared(section: Section) -> Iterator[Assertion | Bits | Probe]:
    """Everything that a module declares. Raises DeclarationError."""
    nameless = {name for name, value in section.own.items() if _is_record(value) and name.startswith("_")}
    for name, value in section.own.items():
        if _is_record(value) and name not in nameless:
            yield from _record(value, section.name)
            nameless -= {kind.__name__ for kind in _nested(value)}
        elif name == "VTABLES":
            yield from _vtables(section.name, value)
        else:
            yield from _value(name.lstrip("_"), name, value, f"{section.name}: {name}")
    if nameless:
        lost = ", ".join(sorted(nameless))
        raise DeclarationError(f"{section.name}: {lost}: no field of anything that has a name in C")
    yield from _functions(section)


def _value(public: str, name: str, value: Any, what: str) -> Iterator[Assertion | Probe]:
    """A constant, an enumeration or a typedef; nothing if it is none of them."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield Assertion(f"{what} is {value} = {value:#x}", public, value % (1 << 64))
    elif isinstance(value, type) and issubclass(value, enum.IntEnum | enum.IntFlag):
        for member in value:
            yield Assertion(f"{what}.{member.name} is {member.value}", member.name, member.value % (1 << 64))
    elif isinstance(value, ctypes.Structure) and type(value).__name__ == "GUID":
        yield _guid(public, value, what)
    elif _is_ctype(value) and public == name:
        yield Assertion(f"{what} is {value.__name__}", _agrees(public, value, what))
        if issubclass(value, ctypes._CFuncPtr):
            yield Probe(what, f"*({public})0", (value._restype_, tuple(value._argtypes_)))


def _nested(cls: Any) -> Iterator[Any]:
    for _, kind, *_bits in vars(cls).get("_fields_", ()):
        while isinstance(kind, type) and issubclass(kind, ctypes.Array):
            kind = kind._type_
        if _is_record(kind):
            yield kind
            yield from _nested(kind)


def _functions(section: Section) -> Iterator[Probe]:
    """What is in a table of prototypes, or in that of a DLL."""
    tables = [value for name, value in section.own.items() if name.endswith("PROTOTYPES")]
    tables += [value.prototypes for value in section.own.values() if isinstance(value, Library)]
    for function, prototype in dict(item for table in tables for item in table.items()).items():
        yield Probe(f"{section.name}: {function}()", function, prototype)


def _vtables(where: str, tables: Mapping[str, Mapping[str, tuple[int, Prototype]]]) -> Iterator[Assertion | Probe]:
    for interface, methods in tables.items():
        for method, (slot, prototype) in methods.items():
            what = f"{where}: {interface}.{method}()"
            yield Assertion(f"{what} is slot {slot}", f"offsetof({interface}Vtbl, {method})", slot * 8)
            yield Probe(what, f"*(({interface}Vtbl *)0)->{method}", prototype)


# 2. What the headers declare


def _arguments(text: str) -> list[str]:
    """Split what stands in a declaration's brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    arguments = [part.strip() for part in parts]
    return [] if arguments == ["void"] else arguments


def _ask(probes: Sequence[Probe], head: list[str], scratch: Path) -> dict[int, tuple[str, list[str]]]:
    """Result and arguments of each probe, by its index, in the headers' own words."""
    externs = [f"extern __typeof__({probe.expression}) probe_{index};" for index, probe in enumerate(probes)]
    program = _program(head, [(f"{probe.what} is declared", line) for probe, line in zip(probes, externs, strict=True)])
    listing = scratch / "declared.txt"
    errors = compile_c(X64, program, scratch, ["-fsyntax-only", "-aux-info", str(listing)])
    if errors:
        raise DeclarationError("\n".join(errors))
    found = re.finditer(r"\*/ extern (.*?)\bprobe_(\d+) \((.*)\);$", listing.read_text(), re.MULTILINE)
    return {int(match[2]): (match[1].strip(), _arguments(match[3])) for match in found}


def _compare(probe: Probe, declared: tuple[str, list[str]]) -> Iterator[Assertion]:
    result, arguments = probe.prototype
    c_result, c_arguments = declared
    yield Assertion(f"{probe.what} gives {_name(result)}, not {c_result}", _agrees(c_result, result, probe.what))
    if len(arguments) != len(c_arguments):
        what = f"{probe.what} takes {len(arguments)} arguments, not ({', '.join(c_arguments)})"
        yield Assertion(what, str(len(c_arguments)), len(arguments))
        return
    for number, (c_type, kind) in enumerate(zip(c_arguments, arguments, strict=True), start=1):
        what = f"{probe.what} argument {number} is {_name(kind)}, not {c_type}"
        yield Assertion(what, _agrees(c_type, kind, what))


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", "void")


# 3. and 4. The program


def _head(sections: Sequence[Section], lacking: Sequence[Lacking]) -> list[str]:
    # winsock2.h has to come before windows.h, which everything includes.
    headers = dict.fromkeys(["winsock2.h", "stddef.h", *(header for section in sections for header in section.headers)])
    head = [f"#include <{header}>" for header in headers]
    for missing in lacking:
        head += [f"/* {missing.source} */", *missing.c.splitlines()]
    return head


@attrs.frozen
class Checks:
    """All that is to be compared, for some modules."""

    head: Sequence[str]
    assertions: Sequence[Assertion]
    bits: Sequence[Bits]

    def program(self, *, wrong: bool = False) -> Program:
        """Static assertions, one on each line; ``wrong``: each with a number that is not right."""
        return _program(self.head, [(each.what, each.line(wrong=wrong)) for each in self.assertions])

    def bit_program(self) -> Program:
        """Bit fields; apart, as an assertion that fails ends the compiler before its optimiser is asked."""
        return _program(self.head, [(each.what, each.line(index)) for index, each in enumerate(self.bits)])


def generate(sections: Sequence[Section], scratch: Path, lacking: Sequence[Lacking] = ()) -> Checks:
    """Find what is to be compared. Raises DeclarationError: something is declared that the headers do not have."""
    head = _head(sections, lacking)
    declared = [found for section in sections for found in _declared(section)]
    assertions = [found for found in declared if isinstance(found, Assertion)]
    probes = [found for found in declared if isinstance(found, Probe)]
    answers = _ask(probes, head, scratch)
    for index, probe in enumerate(probes):
        if index not in answers:
            raise DeclarationError(f"{probe.what} is no function in the headers")
        assertions += _compare(probe, answers[index])
    return Checks(head, assertions, [found for found in declared if isinstance(found, Bits)])


def _program(head: Sequence[str], lines: Sequence[tuple[str, str]]) -> Program:
    """Put ``lines``, each with what it is about, behind ``head``."""
    about = {number: what for number, (what, _) in enumerate(lines, start=len(head) + 1)}
    return Program("\n".join([*head, *(line for _, line in lines), ""]), about)


def check(checks: Checks, scratch: Path) -> list[str]:
    """What the headers do not agree with, a sentence for each."""
    disagreements = compile_c(X64, checks.program(), scratch)
    if checks.bits:
        disagreements += compile_c(X64, checks.bit_program(), scratch, ["-O2", "-S", "-o", "/dev/null"])
    return disagreements


def compile_c(compiler: str, program: Program, scratch: Path, options: Sequence[str] = ("-fsyntax-only",)) -> list[str]:
    """Compile; a sentence for each error, none if it compiles."""
    (scratch / "include").mkdir(exist_ok=True)
    (scratch / "include" / "guiddef.h").write_text(GUIDDEF)
    file = scratch / "check.c"
    file.write_text(program.text)
    command = [compiler, *OPTIONS, f"-I{scratch / 'include'}", *options, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.findall(r"^([^ \n]*?):(\d+)(?::\d+)?: (?:fatal )?error: (.*)$", done.stderr, re.MULTILINE)
    first = {(path, int(line)): text for path, line, text in reversed(found)}
    texts = [_sentence(program, path == str(file), line, text) for (path, line), text in sorted(first.items())]
    if done.returncode and not texts:
        raise DeclarationError(f"{compiler} failed without telling of an error: {done.stderr}")
    return texts


def _sentence(program: Program, ours: bool, line: int, text: str) -> str:
    what = program.about.get(line) if ours else None
    return f"{what}: the headers do not agree ({text})" if what else f"line {line}: {text}"
