"""What each SciPy method needs, can do and understands: data, checked at the door and used to choose tests."""

from __future__ import annotations

from dataclasses import dataclass
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
        limits: SciPy's own limits of evaluations and iterations, which are lifted: ours decide, to the evaluation.
    """

    name: str
    derivatives: Literal["none", "gradient", "product", "hessian"]
    bounds: bool
    common: MappingProxyType[str, str]
    native: frozenset[str]
    limits: frozenset[str]
    by_component: frozenset[str] = frozenset()
    own_stops: bool = False


def _method(
    name: str, derivatives: str, bounds: bool, common: dict[str, str], native: str, limits: str, **more: Any
) -> Method:
    names = (frozenset(each.split()) for each in (native, limits))
    return Method(name, derivatives, bounds, MappingProxyType(common), *names, **more)  # type: ignore[arg-type]


_GRADIENT = {"gtol": "gtol"}
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
        _method("BFGS", "gradient", False, _GRADIENT, "norm xrtol c1 c2 hess_inv0", "maxiter"),
        _method("CG", "gradient", False, _GRADIENT, "norm c1 c2", "maxiter"),
        _method(
            "TNC",
            "gradient",
            True,
            {"ftol": "ftol"},
            "offset scale eta stepmx accuracy minfev xtol rescale",
            "maxfun",
            by_component=frozenset({"offset", "scale"}),
        ),
        _method("SLSQP", "gradient", True, {"ftol": "ftol"}, "", "maxiter"),
        _method("Newton-CG", "product", False, {}, "xtol c1 c2", "maxiter"),
        _method("trust-ncg", "product", False, _GRADIENT, _TRUST, "maxiter"),
        _method("trust-krylov", "product", False, _GRADIENT, _TRUST + " inexact", "maxiter"),
        _method(
            "trust-constr",
            "product",
            True,
            _GRADIENT,
            "xtol barrier_tol sparse_jacobian initial_tr_radius initial_constr_penalty initial_barrier_parameter "
            "initial_barrier_tolerance factorization_method",
            "maxiter",
        ),
        _method("dogleg", "hessian", False, _GRADIENT, _TRUST, "maxiter"),
        _method("trust-exact", "hessian", False, _GRADIENT, _TRUST, "maxiter"),
        _method(
            "Nelder-Mead",
            "none",
            True,
            {},
            "xatol fatol adaptive initial_simplex",
            "maxiter maxfev",
            by_component=frozenset({"initial_simplex"}),
        ),
        _method(
            "Powell",
            "none",
            True,
            {"ftol": "ftol"},
            "xtol direc",
            "maxiter maxfev",
            by_component=frozenset({"direc"}),
        ),
        _method("COBYLA", "none", True, {}, "rhobeg tol catol", "maxiter"),
        _method(
            "COBYQA",
            "none",
            True,
            {},
            "f_target feasibility_tol initial_tr_radius final_tr_radius scale",
            "maxiter maxfev",
        ),
    )
}
