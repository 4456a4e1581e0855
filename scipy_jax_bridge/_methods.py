"""What each SciPy method needs, can do and understands: data, checked at the door and used to choose tests."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


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
    """

    name: str
    derivatives: Literal["none", "gradient", "product", "hessian"]
    bounds: bool
    common: MappingProxyType[str, str]
    native: frozenset[str]
    own_stops: bool = False


def _method(name: str, derivatives: str, bounds: bool, common: dict[str, str], native: str, **more: bool) -> Method:
    return Method(name, derivatives, bounds, MappingProxyType(common), frozenset(native.split()), **more)  # type: ignore[arg-type]


_ITERATIONS = {"maxiter": "maxiter"}
_GRADIENT = {"gtol": "gtol", "maxiter": "maxiter"}
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
            own_stops=True,
        ),
        _method("BFGS", "gradient", False, _GRADIENT, "norm xrtol c1 c2 hess_inv0"),
        _method("CG", "gradient", False, _GRADIENT, "norm c1 c2"),
        _method("TNC", "gradient", True, {"ftol": "ftol"}, "offset scale eta stepmx accuracy minfev xtol rescale"),
        _method("SLSQP", "gradient", True, {"ftol": "ftol", "maxiter": "maxiter"}, ""),
        _method("Newton-CG", "product", False, _ITERATIONS, "xtol c1 c2"),
        _method("trust-ncg", "product", False, _GRADIENT, _TRUST),
        _method("trust-krylov", "product", False, _GRADIENT, _TRUST + " inexact"),
        _method(
            "trust-constr",
            "product",
            True,
            _GRADIENT,
            "xtol barrier_tol sparse_jacobian initial_tr_radius initial_constr_penalty initial_barrier_parameter "
            "initial_barrier_tolerance factorization_method",
        ),
        _method("dogleg", "hessian", False, _GRADIENT, _TRUST),
        _method("trust-exact", "hessian", False, _GRADIENT, _TRUST),
        _method("Nelder-Mead", "none", True, _ITERATIONS, "xatol fatol adaptive initial_simplex"),
        _method("Powell", "none", True, {"ftol": "ftol", "maxiter": "maxiter"}, "xtol direc"),
        _method("COBYLA", "none", True, {"maxfun": "maxiter"}, "rhobeg tol catol"),
        _method(
            "COBYQA", "none", True, _ITERATIONS, "f_target feasibility_tol initial_tr_radius final_tr_radius scale"
        ),
    )
}
