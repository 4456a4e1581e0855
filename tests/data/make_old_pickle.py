"""How af800a5.pickle.gz was made: by this file and the package of commit af800a5, whose pickles name private modules.

python tests/data/make_old_pickle.py tests/data/af800a5.pickle.gz
"""

import gzip
import pickle
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import scipy_jax_bridge as sjb

MORE = {"engine": {}, "bounded": {"bounds": (-1.5, 0.9)}, "adam": {"method": optax.adam(0.02)}}


def fun(x, shift):
    z = x - shift
    return jnp.sum(100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    start = jnp.array([-1.2, 1.0, -1.2, 1.0])
    made = {
        name: sjb.minimize(fun, start, 0.01, backend="optax", options={"maxiter": 7}, **more)
        for name, more in MORE.items()
    }
    made["scipy"] = sjb.minimize(fun, start, 0.01)
    made["bounds"] = sjb.Bounds(-1.5, jnp.full(4, 0.9))
    made["options"] = sjb.Options(gtol=1e-8, native={"iprint": -1})
    made["status"] = sjb.Status.FTOL
    Path(sys.argv[1]).write_bytes(gzip.compress(pickle.dumps(made, protocol=4), mtime=0))
