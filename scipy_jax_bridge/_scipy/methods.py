"""What each SciPy method needs, supports and calls its options; the tests choose methods by these facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Method:
    """A method of `scipy.optimize.minimize`.

    Args:
        name: as SciPy spells it.
        derivatives: "none", "gradient", "product" (Hessian-vector products) or "hessian".
        bounds: whether it takes bounds.
        native: names of its own options, beside the common ones.
        native_limits: SciPy's own limits of evaluations and iterations. They are lifted: ours decide.
        option_names: our options that the method tests itself, with SciPy's name for each.
        native_tolerances: its own tolerances, set so small that our tests decide. A native option overrides them.
        native_stopping: whether its own tests are those of our options, so that ours are not applied.
        stopping_rule: what its own test says, for a method without derivatives, where we have none.
        differences: whether it takes products with the Hessian from differences of gradients nearby.
        failure_hint: what it needs of the objective, to be said where it fails.
        per_component: its own options that hold one number, or one row, for each component.
        grad_at_iterates: whether it asks for the gradient at its iterates only. Its callback also reports trials.
    """

    name: str
    derivatives: Literal["none", "gradient", "product", "hessian"]
    bounds: bool
    native: frozenset[str]
    native_limits: frozenset[str]
    option_names: Mapping[str, str] = field(default_factory=dict)
    native_tolerances: Mapping[str, float] = field(default_factory=dict)
    native_stopping: bool = False
    stopping_rule: str = ""
    failure_hint: str = ""
    per_component: frozenset[str] = frozenset()
    grad_at_iterates: bool = False
    differences: bool = False


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NO_GTOL = {"gtol": 0.0}
_MAXITER = frozenset({"maxiter"})
_TRUST = _words("initial_trust_radius max_trust_radius eta")

_L_BFGS_B = Method(
    "L-BFGS-B",
    "gradient",
    True,
    frozenset(),
    _words("maxfun"),
    option_names={each: each for each in ("gtol", "ftol", "maxiter", "maxls", "maxcor")},
    native_stopping=True,
)
_BFGS = Method(
    "BFGS",
    "gradient",
    False,
    _words("norm xrtol c1 c2 hess_inv0"),
    _MAXITER,
    native_tolerances={"gtol": 0.0, "xrtol": 0.0},
    per_component=_words("hess_inv0"),
)
_CG = Method("CG", "gradient", False, _words("norm c1 c2"), _MAXITER, native_tolerances=_NO_GTOL)
_TNC = Method(
    "TNC",
    "gradient",
    True,
    _words("offset scale eta stepmx accuracy minfev xtol rescale"),
    _words("maxfun"),
    native_tolerances={"ftol": 0.0, "xtol": 0.0, "gtol": 0.0},
    per_component=_words("offset scale"),
    differences=True,
)
_SLSQP = Method(
    "SLSQP", "gradient", True, frozenset(), _MAXITER, native_tolerances={"ftol": 0.0}, grad_at_iterates=True
)
_NEWTON_CG = Method("Newton-CG", "product", False, _words("xtol c1 c2"), _MAXITER, native_tolerances={"xtol": 0.0})
_TRUST_NCG = Method("trust-ncg", "product", False, _TRUST, _MAXITER, native_tolerances=_NO_GTOL)
_TRUST_KRYLOV = Method("trust-krylov", "product", False, _TRUST | {"inexact"}, _MAXITER, native_tolerances=_NO_GTOL)
_TRUST_CONSTR = Method(
    "trust-constr",
    "product",
    True,
    _words(
        "xtol barrier_tol sparse_jacobian initial_tr_radius initial_constr_penalty initial_barrier_parameter "
        "initial_barrier_tolerance factorization_method"
    ),
    _MAXITER,
    native_tolerances={"gtol": 0.0, "xtol": 1e-12, "barrier_tol": 1e-16},
)
_DOGLEG = Method(
    "dogleg",
    "hessian",
    False,
    _TRUST,
    _MAXITER,
    native_tolerances=_NO_GTOL,
    failure_hint="It needs a Hessian that is positive definite at every iterate; trust-exact and trust-ncg do not.",
)
_TRUST_EXACT = Method("trust-exact", "hessian", False, _TRUST, _MAXITER, native_tolerances=_NO_GTOL)
_NELDER_MEAD = Method(
    "Nelder-Mead",
    "none",
    True,
    _words("xatol fatol adaptive initial_simplex"),
    _words("maxiter maxfev"),
    stopping_rule="the corners of its simplex are within xatol and their values within fatol",
    per_component=_words("initial_simplex"),
)
_POWELL = Method(
    "Powell",
    "none",
    True,
    _words("xtol direc"),
    _words("maxiter maxfev"),
    option_names={"ftol": "ftol"},
    stopping_rule="a round of its searches lowered the objective by at most ftol, relatively",
    per_component=_words("direc"),
)
_COBYLA = Method(
    "COBYLA", "none", True, _words("rhobeg tol catol"), _MAXITER, stopping_rule="its trust region shrank to tol"
)
_COBYQA = Method(
    "COBYQA",
    "none",
    True,
    _words("f_target feasibility_tol initial_tr_radius final_tr_radius scale"),
    _words("maxiter maxfev"),
    stopping_rule="its trust region shrank to final_tr_radius, or the objective fell to f_target",
)

METHODS = {
    method.name.lower(): method
    for method in (
        *(_L_BFGS_B, _BFGS, _CG, _TNC, _SLSQP),
        *(_NEWTON_CG, _TRUST_NCG, _TRUST_KRYLOV, _TRUST_CONSTR),
        *(_DOGLEG, _TRUST_EXACT),
        *(_NELDER_MEAD, _POWELL, _COBYLA, _COBYQA),
    )
}
