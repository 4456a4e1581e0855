"""Check the README's table of features against the packages themselves: `python docs/check_features.py [--check]`.

Each cell is an attempt: what the package offers for it, run on a small problem, its answer compared. An attempt that
raises or answers otherwise is a "no"; where a package offers nothing to attempt, the cell is `None`, a "no" too.
`--check` exits with 1 if the table in README.md differs. It needs `pip install 'scipy_jax_bridge[bench]'`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import scipy.optimize
from jax.flatten_util import ravel_pytree

import scipy_jax_bridge as sjb

with warnings.catch_warnings(action="ignore"):  # that jaxopt is no longer maintained
    import jaxopt

warnings.simplefilter("ignore")
jax.config.update("jax_enable_x64", True)
README = Path(__file__).parents[1] / "README.md"
NAMES = ("this package", "jaxopt", "optimistix", "Optax alone", "SciPy alone")
START = {"a": jnp.zeros(2), "b": jnp.zeros(())}
LIMITS = {"a": 1.0, "b": 1.0}
SETTINGS = {**START, "name": "x", "n": 3}
KEY = {"gtol": 1e-9, "ftol": 0.0}


def bowl(p: Any, at: Any = 2.0) -> Any:
    """Its minimum is where every number is `at`."""
    return jnp.sum((p["a"] - at) ** 2) + (p["b"] - at) ** 2


def ridge(x: Any, at: Any) -> Any:
    """Singular: a line of minima."""
    return (x[0] + x[1] - at) ** 2


def ours(fun: Any, p: Any, *args: Any, **more: Any) -> Any:
    """The params that this package finds on the device."""
    return sjb.minimize(fun, p, args, backend="optax", options=KEY, **more).params


def by_optimistix(fun: Any, p: Any, at: Any = 2.0, **more: Any) -> Any:
    """The params that optimistix finds."""
    return optimistix.minimise(fun, optimistix.LBFGS(1e-8, 1e-8), p, at, **more).value


def by_optax(fun: Any, p: Any, *args: Any) -> Any:
    """The params after 20 steps of optax.lbfgs, in a loop by hand."""
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(lambda p: fun(p, *args))

    def step(_: Any, carry: Any) -> Any:
        p, state = carry
        value, grad = value_and_grad(p, state=state)
        updates, state = solver.update(
            grad, state, p, value=value, grad=grad, value_fn=lambda p: fun(p, *args)
        )
        return optax.apply_updates(p, updates), state

    return jax.lax.fori_loop(0, 20, step, (p, solver.init(p)))[0]


def is_at(p: Any, at: float = 2.0) -> bool:
    """Whether all numbers of p are `at`."""
    return all(np.allclose(leaf, at, atol=1e-4) for leaf in (p["a"], p["b"]))


def batch(solve: Callable[[Any], Any]) -> bool:
    """Whether a batch of solves inside jit is right."""
    found = jax.jit(jax.vmap(solve))(jnp.arange(3.0))
    return bool(np.allclose(found["b"], jnp.arange(3.0), atol=1e-4))


def slope(solve: Callable[[Any], Any]) -> bool:
    """Whether the derivative of a solution is right."""
    return bool(np.allclose(jax.grad(lambda at: solve(at)["b"])(2.0), 1.0, atol=1e-4))


def shortest(solve: Callable[[Any], Any]) -> bool:
    """Whether the derivative along a line of minima is the shortest."""
    return bool(np.allclose(jax.jacrev(solve)(3.0), 0.5, atol=1e-4))


def compiles_once(solve: Callable[[Any, Any], Any]) -> bool:
    """Whether a new closure over new data compiles nothing."""
    count = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: (
            count.append(name) if name.endswith("backend_compile_duration") else None
        )
    )
    for k in range(3):
        data = jnp.full(2, float(k))
        data.block_until_ready()
        if k == 2:
            count.clear()
        jax.block_until_ready(
            solve(lambda p, *_, data=data: jnp.sum((p["a"] - data) ** 2) + p["b"] ** 2, START)
        )
    return not count


def by_scipy_glue(fun: Any, p: Any) -> Any:
    """SciPy by hand: ravel, jit, unravel."""
    flat, unravel = ravel_pytree(p)
    value_and_grad = jax.jit(jax.value_and_grad(lambda x: fun(unravel(x))))
    return unravel(
        scipy.optimize.minimize(value_and_grad, np.asarray(flat), jac=True, method="L-BFGS-B").x
    )


def root(x: Any, *_: Any) -> Any:
    """Zero at 3."""
    return x**3 - 27.0


def constrained() -> bool:
    """The minimum of SciPy's SLSQP under an equation."""
    equation = {"type": "eq", "fun": lambda x: x.sum() - 1.0}
    found = scipy.optimize.minimize(
        lambda x: (x**2).sum(), np.array([1.0, 3.0]), constraints=equation
    )
    return bool(np.allclose(found.x, 0.5, atol=1e-4))


OPTAX_LBFGSB = {"lower": dict(START), "upper": {"a": jnp.ones(2), "b": jnp.ones(())}}
FEATURES: dict[str, tuple[Callable[[], bool] | None, ...]] = {
    "`params` is any tree": (
        lambda: is_at(ours(bowl, START)),
        lambda: is_at(jaxopt.LBFGS(bowl).run(START).params),
        lambda: is_at(by_optimistix(bowl, START)),
        lambda: is_at(by_optax(bowl, START)),
        lambda: is_at(scipy.optimize.minimize(bowl, START).x),
    ),
    "with strings and settings in it": (
        lambda: is_at(ours(bowl, SETTINGS)),
        lambda: is_at(jaxopt.LBFGS(bowl).run(SETTINGS).params),
        lambda: is_at(by_optimistix(bowl, SETTINGS)),
        lambda: is_at(by_optax(bowl, SETTINGS)),
        None,
    ),
    "L-BFGS with bounds": (
        lambda: is_at(ours(bowl, START, bounds=(None, 1.0)), 1.0),
        lambda: is_at(jaxopt.LBFGSB(bowl).run(START, (START, OPTAX_LBFGSB["upper"])).params, 1.0),
        lambda: is_at(by_optimistix(bowl, START, options=OPTAX_LBFGSB), 1.0),
        None,
        lambda: np.allclose(
            scipy.optimize.minimize(lambda x: (x - 2) ** 2, 0.0, bounds=[(None, 1.0)]).x, 1.0
        ),
    ),
    "SciPy's methods with exact Hessian-vector products": (
        lambda: is_at(sjb.minimize(bowl, START, method="trust-ncg").params),
        lambda: is_at(jaxopt.ScipyMinimize(fun=bowl, method="trust-ncg").run(START).params),
        None,
        None,
        None,
    ),
    "a solve inside `jit` and `vmap`": (
        lambda: batch(lambda at: ours(bowl, START, at)),
        lambda: batch(lambda at: jaxopt.LBFGS(bowl).run(START, at).params),
        lambda: batch(lambda at: by_optimistix(bowl, START, at)),
        lambda: batch(lambda at: by_optax(bowl, START, at)),
        None,
    ),
    "implicit derivatives of the solution": (
        lambda: slope(lambda at: ours(bowl, START, at)),
        lambda: slope(lambda at: jaxopt.LBFGS(bowl).run(START, at).params),
        lambda: slope(lambda at: by_optimistix(bowl, START, at)),
        None,
        None,
    ),
    "also where the Hessian is singular": (
        lambda: shortest(lambda at: ours(ridge, jnp.zeros(2), at)),
        lambda: shortest(lambda at: jaxopt.LBFGS(ridge).run(jnp.zeros(2), at).params),
        lambda: shortest(lambda at: by_optimistix(ridge, jnp.zeros(2), at)),
        None,
        None,
    ),
    "a new closure over new data compiles nothing": (
        lambda: compiles_once(ours),
        lambda: compiles_once(lambda fun, p: jaxopt.LBFGS(fun).run(p).params),
        lambda: compiles_once(by_optimistix),
        lambda: compiles_once(lambda fun, p: jax.jit(lambda p: by_optax(fun, p))(p)),
        lambda: compiles_once(by_scipy_glue),
    ),
    "L-BFGS and its line search in any training loop, one evaluation a step": (
        lambda: (
            sjb.lbfgsb().update(START, sjb.lbfgsb().init(START), START, value=1.0) is not None
        ),
        None,
        None,
        lambda: (
            optax.lbfgs().update(START, optax.lbfgs().init(START), START, value=1.0) is not None
        ),
        None,
    ),
    "a sentence why it ended": (
        lambda: "gtol" in sjb.minimize(bowl, START).message,
        lambda: bool(jaxopt.LBFGS(bowl).run(START).state.message),
        lambda: (
            optimistix.RESULTS[
                optimistix.minimise(bowl, optimistix.LBFGS(1, 1), START, 2.0).result
            ]
            is not None
        ),
        None,
        lambda: (
            "CONVERGENCE"
            in scipy.optimize.minimize(lambda x: x**2, 1.0, method="L-BFGS-B").message
        ),
    ),
    "Ctrl-C, time limit, going on bit for bit, with a result": (
        lambda: (
            sjb.minimize(
                bowl, sjb.minimize(bowl, START, options={"maxiter": 1, "timeout": 60})
            ).success
        ),
        None,
        None,
        None,
        None,
    ),
    "methods and backends compared side by side": (
        lambda: sjb.compare(bowl, START, repeats=1).recommend() != "",
        None,
        None,
        None,
        None,
    ),
    "least squares, roots": (
        None,
        lambda: np.allclose(jaxopt.Broyden(root).run(jnp.array(2.5)).params, 3.0, atol=1e-3),
        lambda: np.allclose(
            optimistix.root_find(root, optimistix.Newton(1e-8, 1e-8), jnp.array(2.5)).value, 3.0
        ),
        None,
        lambda: np.allclose(scipy.optimize.root(root, 2.5).x, 3.0),
    ),
    "equations as constraints": (None, None, None, None, constrained),
}


def attempt(call: Callable[[], bool] | None) -> str:
    """`yes` if the call answers right."""
    try:
        return "yes" if call is not None and call() else "no"
    except Exception:
        return "no"


def write_table() -> str:
    """The table in Markdown."""
    lines = [f"| | {' | '.join(NAMES)} |", f"|---|{'---|' * len(NAMES)}"]
    lines += [
        f"| {feature} | {' | '.join(map(attempt, calls))} |"
        for feature, calls in FEATURES.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    table = write_table()
    print(table)
    if sys.argv[1:] == ["--check"]:
        sys.exit(table not in README.read_text(encoding="utf-8"))
