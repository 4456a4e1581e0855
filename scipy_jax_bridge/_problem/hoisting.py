"""Make the arrays that a traced function closes over constants of the outermost jaxpr.

`jax.make_jaxpr` leaves those that a nested `jax.jit` closes over inside its own jaxpr. Such a call is replaced by its
equations; XLA inlines it anyway. What a jit inside a loop closes over stays there: a loop has a jaxpr of its own.
"""

from __future__ import annotations

from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

JIT = ("jit", "pjit")  # the names of the primitive, by the version of JAX
SHARDINGS = ("in_shardings", "out_shardings", "in_layouts", "out_layouts")

Atom = Var | Literal


def hoist_consts(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Return an equivalent jaxpr in which no jit outside of loops has constants of its own."""
    parts = [(equation, _read_jit(equation)) for equation in closed.jaxpr.eqns]
    if not any(inner is not None and inner.consts for _, inner in parts):
        return closed
    hoisted = _Hoisted(closed)
    for equation, inner in parts:
        if inner is not None and inner.consts:
            hoisted.inline(equation, inner)
        else:
            hoisted.append(equation)
    return hoisted.close(closed.jaxpr)


def _read_jit(equation: JaxprEqn) -> ClosedJaxpr | None:
    """Return the jaxpr of a plain jit, hoisted; None for any other equation."""
    if equation.primitive.name not in JIT:
        return None
    inner = equation.params.get("jaxpr")
    placed = [each for name in SHARDINGS for each in equation.params.get(name, ())]
    if not isinstance(inner, ClosedJaxpr) or not all(map(_is_unspecified, placed)):
        return None
    return hoist_consts(inner)


def _is_unspecified(sharding: Any) -> bool:
    return sharding is None or type(sharding).__name__ == "UnspecifiedValue"


class _Hoisted:
    """The equations and constants of the new jaxpr.

    A jaxpr that is inlined twice defines its inner variables twice. That is no harm: equations are read in order.
    """

    def __init__(self, closed: ClosedJaxpr) -> None:
        self._consts = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
        self._equations: list[JaxprEqn] = []
        self._renamed: dict[Var, Atom] = {}  # outputs of inlined calls that are inputs or constants of theirs

    def _read(self, atom: Atom, names: dict[Var, Atom]) -> Atom:
        return atom if isinstance(atom, Literal) else names.get(atom, atom)

    def append(self, equation: JaxprEqn) -> None:
        """Append an equation as it is."""
        inputs = [self._read(each, self._renamed) for each in equation.invars]
        self._equations.append(equation.replace(invars=inputs))

    def inline(self, equation: JaxprEqn, inner: ClosedJaxpr) -> None:
        """Append the equations of the jaxpr that the equation calls."""
        given = [self._read(each, self._renamed) for each in equation.invars]
        names: dict[Var, Atom] = dict(zip(inner.jaxpr.invars, given, strict=True))
        self._consts |= zip(inner.jaxpr.constvars, inner.consts, strict=True)
        known = names.keys() | set(inner.jaxpr.constvars)
        defined: dict[Var, Var] = {}
        for output, outside in zip(inner.jaxpr.outvars, equation.outvars, strict=True):
            if isinstance(output, Literal) or output in known:
                self._renamed[outside] = self._read(output, names)
            elif output in defined:
                self._renamed[outside] = defined[output]
            else:
                defined[output] = outside
        names |= defined
        for each in inner.jaxpr.eqns:
            inputs = [self._read(atom, names) for atom in each.invars]
            self._equations.append(each.replace(invars=inputs, outvars=[defined.get(v, v) for v in each.outvars]))

    def close(self, jaxpr: Jaxpr) -> ClosedJaxpr:
        """Return the new jaxpr with the inputs and outputs of the old one."""
        outputs = [self._read(each, self._renamed) for each in jaxpr.outvars]
        new = jaxpr.replace(constvars=list(self._consts), eqns=self._equations, outvars=outputs)
        return ClosedJaxpr(new, list(self._consts.values()))
