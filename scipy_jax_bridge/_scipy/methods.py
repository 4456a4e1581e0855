"""What each SciPy method needs, can do and understands: data, checked at the door and used to choose tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True)
class Method:
    """A method of `scipy.optimize.minimize`.

    Arguments:
        name: as SciPy spells it.
        derivatives: "none", "gradient", "product" (Hessian-vector products) or "hessian".
        bounds: whether it takes bounds.
        own_stops: whether SciPy's own tests are those of the interface, so that ours stay out of the way.
        common: our options that the method takes natively, by SciPy's name for them.
        native: the method's other options.
        by_component: those of them that have a number for each component.
        tests: the tolerances of its own tests, by name, so small that ours decide; a native option goes before.
        ending: what its own test says, of a method without derivatives, for which we have none.
        needs: what it needs of the objective, to be said where it fails.
        grad_asks: whether it asks for the gradient at its iterates alone, and its callback tells of trials.
        limits: SciPy's own limits of evaluations and iterations, which are lifted: ours decide, to the evaluation.
    """

    name: str
    derivatives: Literal["none", "gradient", "product", "hessian"]
    bounds: bool
    common: MappingProxyType[str, str]
    native: frozenset[str]
    limits: frozenset[str]
    tests: Mapping[str, float] = field(default_factory=dict)
    ending: str = ""
    by_component: frozenset[str] = frozenset()
    needs: str = ""
    own_stops: bool = False
    grad_asks: bool = False


def _method(
    name: str, derivatives: str, bounds: bool, common: dict[str, str], native: str, limits: str, **more: Any
) -> Method:
    names = (frozenset(each.split()) for each in (native, limits))
    return Method(name, derivatives, bounds, MappingProxyType(common), *names, **more)  # type: ignore[arg-type]


_GTOL = {"gtol": 0.0}
_TRUST = "initial_trust_radius max_trust_radius eta"

METHODS = {
    method.name.lower(): method
    for method in (
        _method(
            "L-BFGS-B",
            "gradient",
            True,
            {"gtol": "gtol", "ftol": "ftol", "maxiter": "maxiter", "maxls": "maxls", "maxcor": "maxcor"},
            "",
            "maxfun",
            own_stops=True,
        ),
        _method(
            "BFGS", "gradient", False, {}, "norm xrtol c1 c2 hess_inv0", "maxiter", tests={"gtol": 0.0, "xrtol": 0.0}
        ),
        _method("CG", "gradient", False, {}, "norm c1 c2", "maxiter", tests=_GTOL),
        _method(
            "TNC",
            "gradient",
            True,
            {},
            "offset scale eta stepmx accuracy minfev xtol rescale",
            "maxfun",
            tests={"ftol": 0.0, "xtol": 0.0, "gtol": 0.0},
            by_component=frozenset({"offset", "scale"}),
        ),
        _method("SLSQP", "gradient", True, {}, "", "maxiter", tests={"ftol": 0.0}, grad_asks=True),
        _method("Newton-CG", "product", False, {}, "xtol c1 c2", "maxiter", tests={"xtol": 0.0}),
        _method("trust-ncg", "product", False, {}, _TRUST, "maxiter", tests=_GTOL),
        _method("trust-krylov", "product", False, {}, _TRUST + " inexact", "maxiter", tests=_GTOL),
        _method(
            "trust-constr",
            "product",
            True,
            {},
            "xtol barrier_tol sparse_jacobian initial_tr_radius initial_constr_penalty initial_barrier_parameter "
            "initial_barrier_tolerance factorization_method",
            "maxiter",
            tests={"gtol": 0.0, "xtol": 1e-12, "barrier_tol": 1e-16},
        ),
        _method(
            "dogleg",
            "hessian",
            False,
            {},
            _TRUST,
            "maxiter",
            tests=_GTOL,
            needs="It needs a Hessian that is positive definite at every iterate; trust-exact and trust-ncg do not.",
        ),
        _method("trust-exact", "hessian", False, {}, _TRUST, "maxiter", tests=_GTOL),
        _method(
            "Nelder-Mead",
            "none",
            True,
            {},
            "xatol fatol adaptive initial_simplex",
            "maxiter maxfev",
            ending="the corners of its simplex are within xatol and their values within fatol",
            by_component=frozenset({"initial_simplex"}),
        ),
        _method(
            "Powell",
            "none",
            True,
            {"ftol": "ftol"},
            "xtol direc",
            "maxiter maxfev",
            ending="a round of its searches lowered the objective by at most ftol, relatively",
            by_component=frozenset({"direc"}),
        ),
        _method("COBYLA", "none", True, {}, "rhobeg tol catol", "maxiter", ending="its trust region shrank to tol"),
        _method(
            "COBYQA",
            "none",
            True,
            {},
            "f_target feasibility_tol initial_tr_radius final_tr_radius scale",
            "maxiter maxfev",
            ending="its trust region shrank to final_tr_radius, or the objective fell to f_target",
        ),
    )
}
