"""Words of other libraries, with what to write here."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import unknown_name

DERIVATIVES = "JAX differentiates fun; leave it out. A rule of your own is a jax.custom_vjp of fun."
START = "The start is the second argument, params."
WORDS = {
    "has_aux": "fun must return the value alone: lambda params, *args: fun(params, *args)[0].",
    **dict.fromkeys(("jac", "grad", "hess", "hessp", "value_and_grad"), DERIVATIVES),
    **dict.fromkeys(("x0", "y0", "init", "init_params", "initial_guess"), START),
    "tol": "Write options={'gtol': ...} for the gradient, options={'ftol': ...} for the objective.",
    "constraints": "There are bounds= and fixed= only; put other constraints into fun, as a penalty or a change of "
    "variables.",
    "learning_rate": "It belongs to the transformation: backend='optax', method=optax.adam(learning_rate).",
    **dict.fromkeys(
        ("disp", "verbose", "verbosity"), "progress=True shows a progress bar; print(result) says the rest."
    ),
    **dict.fromkeys(("dtype", "x64"), "precision='float64' solves in double precision."),
    **dict.fromkeys(("mask", "frozen", "freeze", "trainable"), "fixed= holds parts of params, by path or by a mask."),
}
OPTIONS = {
    "max_iter": "maxiter",
    "max_steps": "maxiter",
    "maxfev": "maxfun",
    "memory": "maxcor",
    "history_size": "maxcor",
}


def explain_option(name: str, known: Iterable[str], owner: str) -> str:
    """Return what to write in place of an unknown option."""
    if name in OPTIONS:
        return (
            f"unknown option {name!r} for {owner}; did you mean {OPTIONS[name]!r}? Known: {', '.join(sorted(known))}."
        )
    return " ".join(filter(None, (unknown_name("option", name, known, owner), WORDS.get(name))))
