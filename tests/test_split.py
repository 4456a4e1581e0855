"""Data and params that are split over eight devices stay there: nothing as long as a vector is gathered."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import pytest

START = """
import re
import jax, jax.numpy as jnp, numpy as np, optax
jax.config.update("jax_enable_x64", True)
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import scipy_jax_bridge as sjb
from scipy_jax_bridge._problem import cache

programs = []
compile_one = cache.Programs._compile

def keep(self, name, make, seconds):
    programs.append(compile_one(self, name, make, seconds))
    return programs[-1]

cache.Programs._compile = keep
MOVES = "all-gather|all-to-all|collective-permute"
assert len(jax.devices()) == 8
mesh = Mesh(np.array(jax.devices()), ("i",))
parts = NamedSharding(mesh, P("i"))
rng = np.random.default_rng(0)

def moved():
    '''Lengths of the arrays that the programs since the last call gather or send around.'''
    texts = [program.as_text() for program in programs]
    programs.clear()
    shapes = [shape for text in texts for shape in re.findall(rf"= \\w+\\[([\\d,]*)\\]\\S* (?:{MOVES})", text)]
    return [int(np.prod([int(each) for each in shape.split(",") if each])) for shape in shapes]

def inputs():
    '''Bytes of the inputs of the last program on each device.'''
    return programs[-1].memory_analysis().argument_size_in_bytes

def near(found, known):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, known)
"""

DATA = """
x = rng.normal(size=(8000, 30))
y = x @ np.linspace(-1, 1, 30) + rng.normal(size=8000)

def loss(w, x, y):
    return jnp.mean(jnp.log(jnp.cosh(x @ w - y)))

far = jax.device_put((x, y), parts)

def closed(w):
    return loss(w, *far)

for backend in ("scipy", "optax"):
    alone = sjb.minimize(loss, np.zeros(30), (x, y), backend=backend, options={"ftol": 0, "gtol": 1e-7})
    for fun, args in ((loss, far), (closed, ())):
        programs.clear()
        result = sjb.minimize(fun, np.zeros(30), args, backend=backend, options={"ftol": 0, "gtol": 1e-7})
        assert result.success
        near(result.params, alone.params)
        if programs:
            assert inputs() < x.nbytes / 8 + 700_000, (inputs(), x.nbytes)
        assert moved() == []
"""

PARAMS = """
import os
LONG = "SJB_LONG_TESTS" in os.environ
n = 16000
grid = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
target = np.linspace(0.1, 0.9, n)
TREES = [
    (mesh, {"w": P("i"), "v": P(None, "i"), "b": P(), "c": None}),
    (grid, {"w": P(("a", "b")), "v": P("b", "a"), "b": P("a"), "c": None}),
    (grid, {"w": P("b"), "v": P("a", None), "b": P(), "c": None}),
][: None if LONG else 2]

def loss(p, target):
    rough = jnp.sum((p["w"] - target) ** 2 * (1 + jnp.arange(n) % 9)) + jnp.sum((p["v"] - 0.3) ** 2 * 3)
    return rough + jnp.sum(p["b"] ** 2) + (p["c"] - jnp.mean(p["w"])) ** 2

start = {"w": np.zeros(n), "v": np.ones((8, 16)), "b": np.ones(12), "c": 2.0}
tight = {"ftol": 0, "gtol": 1e-7}
alone = {bounds: sjb.minimize(loss, start, (target,), backend="optax", bounds=bounds, options=tight)
         for bounds in (None, (0.2, 0.8))[: 1 + LONG]}

def stop_and_resume(params, far, result):
    reported = []
    few = {**tight, "maxfun": 9}
    stopped = sjb.minimize(loss, params, (far,), backend="optax", options=few, callback=reported.append)
    assert reported[0].params["w"].sharding == params["w"].sharding
    again = sjb.minimize(loss, stopped, (far,), backend="optax", options=tight)
    assert again.nfev == result.nfev and np.array_equal(again.params["w"], result.params["w"]), again.message

for over, specs in TREES:
    params = {name: value if specs[name] is None else jax.device_put(value, NamedSharding(over, specs[name]))
              for name, value in start.items()}
    far = jax.device_put(target, NamedSharding(over, P(over.axis_names)))
    programs.clear()
    result = sjb.minimize(loss, params, (far,), backend="optax", options=tight)
    share = n // 2 if specs["w"] == P("b") else n // 8
    assert inputs() < 8 * (32 * share) + 600_000, inputs()
    limit = share if specs["w"] == P("b") else 1000  # what several devices share is joined there to that share
    assert max(sent := moved(), default=0) <= limit, sent
    assert result.success, result.message
    near(result.params, alone[None].params)
    for name in "wvb":
        assert result.params[name].sharding == params[name].sharding, name
    if over is mesh or LONG:
        stop_and_resume(params, far, result)

if LONG:
    bounded = sjb.minimize(loss, params, (far,), backend="optax", bounds=(0.2, 0.8), options=tight)
    near(bounded.params, alone[0.2, 0.8].params)
    assert max(sent := moved(), default=0) <= share, sent
adam = sjb.minimize(loss, params, (far,), backend="optax", method=optax.adam(0.01), options={"maxiter": 50})
assert max(sent := moved(), default=0) <= share, sent
known = sjb.minimize(loss, start, (target,), backend="optax", method=optax.adam(0.01), options={"maxiter": 50})
near(adam.params, known.params)
at_scipy = sjb.minimize(loss, params, (far,), options=tight)
near(at_scipy.params, alone[None].params)
assert at_scipy.params["w"].sharding == params["w"].sharding
from scipy_jax_bridge._scipy import numpy_objective
numpy_objective.SPLIT_MAX = 1000
try:
    sjb.minimize(loss, params, (far,))
except ValueError as error:
    assert "params are split over 8 devices and have 16141 components" in str(error), error
    assert "Take backend='optax'" in str(error), error
else:
    raise AssertionError("SciPy took split params of any size")
try:
    sjb.minimize(lambda p, t: loss(p, t) / 0, params, (far,), backend="optax")
except sjb.NonfiniteStart as error:
    assert "the objective is" in str(error), error
"""

EXPLICIT = """
mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
parts = NamedSharding(mesh, P("i"))
x = rng.normal(size=(800, 4))
far = jax.device_put((x, x @ np.arange(4.0)), parts)

def loss(w, x, y):
    return jnp.mean((x @ w - y) ** 2)

def pull(p, t):
    return jnp.sum((p - t) ** 2)

target = jax.device_put(jnp.linspace(0, 1, 80), parts)
for backend in ("scipy", "optax"):
    try:
        sjb.minimize(loss, np.zeros(4), far, backend=backend)
    except Exception as error:
        assert type(error).__module__.startswith("jax"), type(error)
        assert any("jax.set_mesh(mesh)" in note for note in error.__notes__), error.__notes__
    else:
        raise AssertionError("jax.grad refuses it")
for backend in ("scipy", "optax"):
    with jax.set_mesh(mesh):
        result = sjb.minimize(loss, np.zeros(4), far, backend=backend, options={"ftol": 0, "gtol": 1e-7})
        near(result.params, np.arange(4.0))
        for start in (np.zeros(80), jax.device_put(np.zeros(80), parts)):
            result = sjb.minimize(pull, start, (target,), backend=backend)
            near(result.params, target)
"""


PARTS = {"data": DATA, "meshes with explicit axes": EXPLICIT, "params": PARAMS}  # the last one changes a limit


@pytest.mark.slow
def test_what_is_split_stays_where_it_is() -> None:
    """One process for all parts: importing is a good part of what each costs."""
    parts = {name: part for name, part in PARTS.items() if part is not EXPLICIT or hasattr(jax, "set_mesh")}
    program = f"{START}\nfor name, part in {parts!r}.items():\n    exec(compile(part, name, 'exec'), dict(globals()))"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
