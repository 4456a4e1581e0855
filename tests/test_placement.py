"""Params that were put on a device or spread over several: the solve runs there, the result comes back there."""

from __future__ import annotations

import os
import subprocess
import sys

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

RUNS = (
    {"backend": "scipy"},
    {"backend": "optax"},
    {"backend": "optax", "bounds": (-9.0, 9.0)},
    {"backend": "optax", "method": optax.adam(0.1), "options": {"maxiter": 300}},
)
mesh = Mesh(np.array(devices), ("i",))
whole, parts = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("i"))
for run in RUNS:
    for place, where in ((devices[2], devices[2]), (whole, parts)):
        params = jax.device_put(start, place)
        for data in ((x, y), jax.device_put((x, y), where)):
            result = sjb.minimize(loss, params, data, **run)
            for leaf, given in zip(*map(jax.tree.leaves, (result.params, params)), strict=True):
                assert leaf.sharding == given.sharding, (run, leaf.sharding)
            np.testing.assert_allclose(result.params["w"], [1.0, 2.0, -1.0], atol=1e-2)
            again = sjb.minimize(loss, result, data, **run)
            assert again.timing.compiles == 0, run
"""


@pytest.mark.slow
def test_where_params_were_put() -> None:
    flags = "--xla_force_host_platform_device_count=4"
    done = subprocess.run([sys.executable, "-c", SCRIPT], env={**os.environ, "XLA_FLAGS": flags}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
