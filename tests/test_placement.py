"""Params that were put on a device or spread over several: the solve runs there, the result comes back there."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import pytest

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np, optax
jax.config.update("jax_enable_x64", True)
import scipy_jax_bridge as sjb
from jax.sharding import Mesh, NamedSharding, PartitionSpec

x = np.random.default_rng(0).normal(size=(40, 3))
y = x @ np.array([1.0, 2.0, -1.0]) + 0.5
devices = jax.devices()
assert len(devices) == 4
start = {"w": jnp.zeros(3), "b": jnp.zeros(())}

def loss(params, x, y):
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)

mesh = Mesh(np.array(devices), ("i",))
whole, parts = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("i"))
host, one, spread = (x, y), jax.device_put((x, y), devices[2]), jax.device_put((x, y), parts)
ALL = [(devices[2], host), (devices[2], one), (whole, host), (whole, spread)]
RUNS = (
    ({"backend": "scipy"}, ALL),
    ({"backend": "optax"}, ALL),
    ({"backend": "optax", "bounds": (-9.0, 9.0)}, ALL[::3]),
    ({"backend": "optax", "method": optax.adam(0.1), "options": {"maxiter": 300}}, ALL[1:3]),
)
for run, places in RUNS:
    for place, data in places:
        params = jax.device_put(start, place)
        result = sjb.minimize(loss, params, data, **run)
        for leaf, given in zip(*map(jax.tree.leaves, (result.params, params)), strict=True):
            assert leaf.sharding == given.sharding, (run, leaf.sharding)
        np.testing.assert_allclose(result.params["w"], [1.0, 2.0, -1.0], atol=1e-2)
        again = sjb.minimize(loss, result, data, **run)
        assert again.timing.compiles == 0, run
for backend in ("scipy", "optax"):
    at, spread = jax.device_put(start, whole), jax.device_put((jnp.asarray(x), jnp.asarray(y)), parts)
    sjb.minimize(loss, at, (x, y), backend=backend)  # a gradient takes no program of other places
    slope = jax.grad(lambda y: jnp.sum(sjb.minimize(loss, at, (spread[0], y), backend=backend).params["w"]))
    alone = jax.grad(lambda y: jnp.sum(sjb.minimize(loss, start, (x, y), backend=backend).params["w"]))(jnp.asarray(y))
    assert slope(spread[1]).sharding == parts
    np.testing.assert_allclose(slope(spread[1]), alone, atol=1e-6)
for rate in (jnp.asarray(0.1), jax.device_put(0.1, devices[0]), jax.device_put(0.1, devices[1]), jnp.asarray(0.1)):
    result = sjb.minimize(lambda x: jnp.sum(x**2), jnp.ones(2), backend="optax", method=optax.sgd(rate))
    np.testing.assert_allclose(result.params, 0, atol=1e-3)
"""

MANUAL = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh, PartitionSpec
jax.config.update("jax_enable_x64", True)
import scipy_jax_bridge as sjb

mesh = Mesh(np.array(jax.devices()), ("i",))
each, whole = PartitionSpec("i"), PartitionSpec()
rows = jnp.arange(12.0).reshape(4, 3)

def fall(x, a):
    return jnp.sum((x - a) ** 2 * jnp.arange(1, 4)) + 0.1 * jnp.sum(x**4)

def split(solve, out=each):
    return jax.shard_map(solve, mesh=mesh, in_specs=each, out_specs=out, check_vma=True)

for method in (None, optax.adam(0.1)):
    def solve(a):
        return sjb.minimize(fall, jnp.zeros(3), (a,), backend="optax", method=method).params

    single = jax.jit(solve)  # the same objective, not split
    alone = jnp.stack([single(row) for row in rows])
    np.testing.assert_allclose(jax.jit(split(jax.vmap(solve)))(rows), alone, rtol=1e-6, atol=1e-9)
    if method is None:
        slope = jax.grad(lambda a: solve(a).sum())
        alone = jnp.stack([slope(row) for row in rows])
        found = jax.jit(split(lambda rows: slope(rows[0])[None]))(rows)
        np.testing.assert_allclose(found, alone, rtol=1e-6, atol=1e-9)

def start_at(row):
    result = sjb.minimize(lambda x: (jnp.sum((x - 9) ** 2), row), row, backend="optax", has_aux=True)
    return jnp.stack([result.params, result.aux])[None]

found = jax.jit(split(lambda rows: start_at(rows[0])))(rows)
np.testing.assert_allclose(found[:, 0], 9.0, rtol=1e-6)
np.testing.assert_array_equal(found[:, 1], rows)

def together(x, a):  # one solution of all devices
    return jax.lax.psum(jnp.sum((x - a) ** 2), "i")

def common(method):
    return split(
        lambda rows: sjb.minimize(together, jnp.zeros(3), (rows[0],), backend="optax", method=method).params, whole
    )

np.testing.assert_allclose(jax.jit(common(None))(rows), rows.mean(0), rtol=1e-6)
np.testing.assert_allclose(common(optax.sgd(0.1))(rows), rows.mean(0), rtol=1e-5)  # without jax.jit
"""


PARTS = {"where params were put": SCRIPT, "inside shard_map": MANUAL}


@pytest.mark.slow
def test_on_four_devices() -> None:
    """Inside shard_map it failed where JAX checks over which axes values vary, and after a solve of the same objective.

    One process for both parts: importing is a good part of what each costs.
    """
    parts = dict(PARTS) if hasattr(jax, "shard_map") else {name: PARTS[name] for name in list(PARTS)[:1]}
    program = f"for name, part in {parts!r}.items():\n    exec(compile(part, name, 'exec'), {{}})"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
