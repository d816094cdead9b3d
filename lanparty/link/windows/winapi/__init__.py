"""Windows' own names, types and functions, as its headers have them; one module for each DLL or header.

    dll.py        loads a DLL and binds its functions with their types; what tests replace
    base.py       the integer and handle types of windef.h and basetsd.h, with the same sizes on every system

Names are Microsoft's, to the letter, so that its documentation can be searched for them. Every module can be imported
anywhere: a DLL is loaded at the first call, and only Windows has any.

``tests/windows/test_windows_headers.py`` compiles every module against the headers of mingw-w64. It compares what a
module itself defines (not what it imports), by these conventions:

    HEADERS: Final = ("winsock2.h", "iphlpapi.h")   what a C program would include for it, in this order; required
    NAME: Final = 5                                 an int is a macro, or a member of an enumeration
    NAME = ctypes.c_uint32                          a ctypes type is a typedef of that size; one made by
                                                    ``ctypes.CFUNCTYPE`` is a callback, compared by its arguments
    class NAME(ctypes.Structure)                    size, and each field's offset, size, sign and kind. Bytes stand for
                                                    anything of their size, an integer for a structure or union of its
                                                    size. One whose name begins with ``_`` has no name in C: it is
                                                    compared where it is a field
    NAME = GUID(...)                                an instance of a structure called GUID is a DEFINE_GUID
    PROTOTYPES: Final = {"Function": (..., (...,))} a `dll.Prototype` for each function. Of pointers, ``c_void_p``
                                                    passes for any; what any other points to is compared
    VTABLES: Final = {"IName": {"Method": (7, (HRESULT, (PVOID, ...)))}}
                                                    of COM: each method's slot, and its prototype, "this" included

Must not know: what the functions are used for.
"""
