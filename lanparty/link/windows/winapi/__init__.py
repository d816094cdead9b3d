"""Windows' own names, types and functions, as its headers have them; one module for each DLL or header.

    dll.py        loads a DLL and binds its functions with their types; what tests replace
    base.py       the integer and handle types of windef.h and basetsd.h, with the same sizes on every system

Names are Microsoft's, to the letter, so that its documentation can be searched for them; ``tests/windows`` compiles all
sizes, offsets, values and prototypes against the headers of mingw-w64. Every module can be imported anywhere: a DLL is
loaded at the first call, and only Windows has any.

Must not know: what the functions are used for.
"""
