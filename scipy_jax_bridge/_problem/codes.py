"""What the code of a function names, without running it."""

from __future__ import annotations

import dis
import types
import weakref
from typing import NamedTuple

WRITES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR", "DELETE_DEREF"})


class Code(NamedTuple):
    """What a code object names.

    Args:
        globals_read: names of globals and builtins.
        names: those, and the names of all attributes.
        is_pure: whether it writes nothing outside and imports nothing.
    """

    globals_read: frozenset[str]
    names: frozenset[str]
    is_pure: bool


_codes: weakref.WeakKeyDictionary[types.CodeType, Code] = weakref.WeakKeyDictionary()


def read_code(code: types.CodeType) -> Code:
    """Return what a code object names, with the functions inside it."""
    found = _codes.get(code)
    if found is None:
        found = _codes[code] = _scan(code)
    return found


def _scan(code: types.CodeType) -> Code:
    reads, names, is_pure = set[str](), set(code.co_names), True
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            reads.add(instruction.argval)
        elif instruction.opname == "STORE_DEREF":
            is_pure = is_pure and instruction.argval in code.co_cellvars
        elif instruction.opname == "IMPORT_NAME":
            is_pure = False
        is_pure = is_pure and instruction.opname not in WRITES
    for const in code.co_consts:  # functions inside
        if isinstance(const, types.CodeType):
            inner = _scan(const)
            reads |= inner.globals_read
            names |= inner.names
            is_pure = is_pure and inner.is_pure
    is_pure = is_pure and not any(name.startswith("__") for name in names)
    return Code(frozenset(reads), frozenset(names), is_pure)
