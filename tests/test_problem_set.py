"""The problem set of the benchmarks: every case is solved, by both backends, to the same answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scipy_jax_bridge as sjb
from problem_set import CASES

pytestmark = pytest.mark.rounding

NEEDS = {"digits": "sklearn", "co2": "statsmodels"}
NOISY = "gp"  # ends at its noise, where rounding decides most
NAMES = [NOISY, *(pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != NOISY)]


@pytest.mark.parametrize("name", NAMES)
def test_a_case_is_solved_by_both_backends_to_one_answer(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    case = CASES[name]()
    options = {"gtol": 1e-6, "ftol": 0.0}
    found = [
        sjb.minimize(case.make(), case.params, case.args, backend=backend, bounds=case.bounds, options=options)
        for backend in ("scipy", "optax")
    ]
    start = float(case.make()(case.params, *case.args))
    one, other = (float(result.fun) for result in found)
    assert one < start and one == pytest.approx(other, rel=1e-6, abs=1e-8)
    assert all(result.success or result.status.name == "NOISE_FLOOR" for result in found)


def test_every_case_makes_a_function_that_nothing_knows():
    case = CASES["wood"]()
    assert case.make() is not case.make()
    for name in ("gp", "ode", "diagonal", "log sum", "coupled"):
        case = CASES[name]()
        value, grad = jax.jit(jax.value_and_grad(case.make()))(case.params, *case.args)
        assert jnp.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))
