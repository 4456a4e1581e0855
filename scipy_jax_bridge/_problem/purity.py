"""Prove that a function computes the same as before, by all that it can read from outside its arguments.

The proof knows the code of functions, plain values, JAX arrays by their identity, and the packages in PURE. Whatever
else a function can reach (other objects, NumPy arrays, lists, other modules, `self`) leaves it unproved. Then it is
traced again. So a gap in what can be proved costs time and never an old answer.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
import sys
import types
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from .._core.types import Objective, Tracer, TreeDef
from .codes import read_code
from .params import TreeSpec
from .value_key import ById


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PURE = _words(
    "jax jaxlib numpy optax equinox diffrax lineax optimistix jaxtyping math operator functools itertools typing "
    "collections dataclasses"
)
"""Packages whose functions read only their arguments."""

IMPURE = _words(
    "DataSource ForwardRef attrgetter cache cached_property config datetime64 default_deserialise_filter_spec empty "
    "empty_like format format_map fromfile fromregex genfromtxt get_printoptions get_type_hints getbufsize geterr "
    "geterrcall live_arrays load loads loadtxt lru_cache memmap methodcaller open_memmap read_array "
    "tree_deserialise_leaves"
)
"""Names, in these packages or of methods, that read something else; `numpy.random` besides."""

PURE_BUILTINS = _words(
    "abs all any bool bytes callable complex dict divmod enumerate filter float frozenset int isinstance "
    "issubclass len list map max min pow range repr reversed round set slice sorted str sum tuple zip "
    "ArithmeticError AssertionError IndexError KeyError NotImplementedError RuntimeError TypeError ValueError"
)
PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None), type(Ellipsis)})
CONTAINERS = (tuple, list, dict, type(None))  # of params and args: they have no methods of the user
PJIT = type(jax.jit(lambda: None))


class Unproved(Exception):
    """The function can reach something whose changes cannot be seen."""


def prove(fun: Objective) -> Hashable | None:
    """Return all that the function can read, to be compared with a later proof; None if that is not known."""
    try:
        return tuple(_Reader().read_whole(fun))
    except (Unproved, RecursionError):
        return None


def has_plain_tree(spec: TreeSpec) -> bool:
    """Whether a tree has no class and no static value through which a function could read something from outside."""
    return all(leaf.static is None or _is_plain_value(leaf.static.value) for leaf in spec.leaves) and _is_plain(
        spec.treedef
    )


def _is_plain(treedef: TreeDef) -> bool:
    node = treedef.node_data()
    if node is None:
        return True
    if node[0] not in CONTAINERS or (node[0] is dict and not all(map(_is_plain_value, node[1]))):
        return False
    return all(map(_is_plain, treedef.children()))


class _Reader:
    """Read functions and what they refer to, each once."""

    def __init__(self) -> None:
        self._functions: set[int] = set()
        self._modules: dict[str, types.ModuleType] = {}
        self._public: list[Any] = []
        self._names: set[str] = set()

    def read_whole(self, fun: Objective) -> Iterator[Hashable]:
        """Yield what the function is known by.

        A module may be passed on. So all names in all code count as attributes that may be read from each module, and
        from each public function and class.

        Raises:
            Unproved: something may change in a way that cannot be seen.
        """
        yield from self._read(fun)
        done = set[str]()
        while todo := self._modules.keys() - done:
            for module in sorted(todo):
                yield from self._read_module(self._modules[module])
            done |= todo
        for value in self._public:
            for name in sorted(self._names & getattr(value, "__dict__", {}).keys()):
                yield name
                yield from _read_attribute(vars(value)[name])

    def _read(self, value: Any) -> Iterator[Hashable]:
        """Yield what a value is known by that was found in a closure, among the globals, or in another value."""
        if _is_plain_value(value):
            yield type(value), repr(value)
        elif isinstance(value, jax.Array) and not isinstance(value, Tracer):
            yield ById(value)
        elif isinstance(value, types.ModuleType):
            if _root(value.__name__) not in PURE or value.__name__.startswith("numpy.random"):
                raise Unproved
            self._modules[value.__name__] = value
            yield ById(value)
        elif _is_public(value):
            yield ById(value)
            self._public.append(value)
        elif isinstance(value, types.FunctionType):
            yield from self._read_function(value)
        elif isinstance(value, functools.partial):
            yield from self._read_all((type(value), value.func, value.args, *value.keywords.items()))
        elif isinstance(value, PJIT):
            yield ById(value)
            yield from self._read(value.__wrapped__)  # type: ignore[attr-defined]
        elif type(value) is tuple or (isinstance(value, tuple) and _is_of_package(type(value))):
            yield type(value), len(value)
            yield from self._read_all(value)
        elif _is_record(value):
            yield type(value)
            yield from self._read_all(sorted(vars(value).items()))
        else:
            raise Unproved

    def _read_all(self, values: Iterable[Any]) -> Iterator[Hashable]:
        for value in values:
            yield from self._read(value)

    def _read_function(self, fun: types.FunctionType) -> Iterator[Hashable]:
        yield ById(fun)
        if id(fun) in self._functions:
            return
        self._functions.add(id(fun))
        yield ById(fun.__code__)
        yield from self._read_all((fun.__defaults__, *sorted((fun.__kwdefaults__ or {}).items())))
        yield from self._read_all(sorted(vars(fun).items()))
        try:
            yield from self._read_all(cell.cell_contents for cell in fun.__closure__ or ())
        except ValueError:  # a cell is not filled yet
            raise Unproved from None
        if _root(fun.__globals__.get("__name__")) in PURE:
            return
        code = read_code(fun.__code__)
        if not code.is_pure or code.names & IMPURE:
            raise Unproved
        self._names |= code.names
        for name in sorted(code.globals_read):
            yield name
            yield from self._read(_look_up(fun.__globals__, name))

    def _read_module(self, module: types.ModuleType) -> Iterator[Hashable]:
        if module.__name__.startswith("numpy") and "random" in self._names:  # NumPy may import it only when it is used
            raise Unproved
        for name in sorted(self._names & vars(module).keys()):
            yield name
            yield from self._read(vars(module)[name])


def _read_attribute(value: Any) -> Iterator[Hashable]:
    """Yield what an attribute of a public function or class is known by. Its methods are the package's own."""
    if _is_plain_value(value):
        yield type(value), repr(value)
    elif callable(value) or hasattr(type(value), "__get__"):
        yield ById(value)
    else:
        raise Unproved


def _look_up(names: dict[str, Any], name: str) -> Any:
    """Return the value of a global or builtin name."""
    if name in names:
        return names[name]
    if names.get("__builtins__") not in (builtins, vars(builtins)) or not hasattr(builtins, name):
        raise Unproved
    return getattr(builtins, name)


def _is_plain_value(value: Any) -> bool:
    """Whether the value is an immutable number, string or type of data; a subclass may have attributes."""
    if isinstance(value, np.number | np.bool_ | np.dtype):
        return type(value).__module__ in ("numpy", "numpy.dtypes")
    return type(value) in PLAIN


def _root(name: str | None) -> str:
    return (name or "").partition(".")[0]


def _is_of_package(kind: type) -> bool:
    return _root(kind.__module__) in PURE and _is_public(kind)


def _is_public(value: Any) -> bool:
    """Whether the value is a function, class or object that a pure package defines under its own name."""
    if getattr(value, "__module__", None) == "builtins":
        name = getattr(value, "__name__", None)
        return name in PURE_BUILTINS and getattr(builtins, name, None) is value
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str) or _root(module) not in PURE or name in IMPURE:
        return False
    return not module.startswith("numpy.random") and getattr(sys.modules.get(module), name, None) is value


def _is_record(value: Any) -> bool:
    """Whether the value is an object of a pure package with nothing but fields, such as a solver of diffrax."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return False
    return _is_of_package(type(value)) and hasattr(value, "__dict__")
