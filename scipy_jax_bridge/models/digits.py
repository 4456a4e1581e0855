"""Multinomial logistic regression on images of handwritten digits.

Source of the data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI
Machine Learning Repository, 1998; its test set of 1797 images ships with scikit-learn.
Source of the objective: C. Bishop, Pattern Recognition and Machine Learning, 2006, equation
4.108, with the penalty of scikit-learn's `LogisticRegression`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from scipy_jax_bridge.models._model import Model, import_data_library

INVERSE_REGULARIZATION = 1.0
"""`C` of scikit-learn's `LogisticRegression`, at its default."""

LARGEST_PIXEL = 16.0
"""Pixels are counts from 0 to 16; images are divided by this, so features lie in [0, 1]."""

Params = dict[str, Float[ArrayLike, "..."]]


def logits(params: Params, images: Float[ArrayLike, "images pixels"]) -> Float[Array, "images classes"]:
    """Scores of every class for every image, before the softmax: `images @ weights + bias`."""
    return jnp.matmul(images, params["weights"]) + params["bias"]


def objective(
    params: Params, images: Float[ArrayLike, "images pixels"], labels: Int[ArrayLike, " images"]
) -> Float[Array, ""]:
    r"""Mean cross-entropy plus a squared penalty on the weights, none on the bias.

    $$
    f(W, b) = \frac1n \sum_{i=1}^n \left( \log \sum_k e^{z_{ik}} - z_{i y_i} \right)
              + \frac{1}{2 C n} \lVert W \rVert_F^2, \qquad z_i = W^\top x_i + b
    $$

    This is scikit-learn's `C * sum(losses) + 0.5 * sum(W ** 2)` times the constant `1 / (C n)`,
    with `C = INVERSE_REGULARIZATION`, so both have the same minimizers. Adding one number to
    every entry of `bias` changes nothing: the minimum is unique, the bias is unique up to that.

    Args:
        params: "weights", shape (pixels, classes), and "bias", shape (classes,).
        images: shape (images, pixels), scaled to [0, 1].
        labels: shape (images,), integers from 0 to classes - 1.

    Returns:
        The objective, a scalar.
    """
    scores = logits(params, images)
    own_score = jnp.take_along_axis(scores, jnp.asarray(labels)[:, None], axis=1)[:, 0]
    losses = jax.nn.logsumexp(scores, axis=1) - own_score
    penalty = jnp.sum(jnp.square(params["weights"])) / (2 * INVERSE_REGULARIZATION)
    return jnp.mean(losses) + penalty / losses.size


def metrics(
    params: Params,
    args: tuple[Float[ArrayLike, "images pixels"], Int[ArrayLike, " images"]],
) -> dict[str, float]:
    """The fraction of the training images whose likeliest class is their label."""
    images, labels = args
    guesses = np.argmax(np.asarray(logits(params, images)), axis=1)
    return {"training_accuracy": float(np.mean(guesses == np.asarray(labels)))}


def build() -> Model:
    """The digits problem: 1797 images of 64 pixels, 10 classes, 650 parameters, start at zero.

    Returns:
        The model, `args` being (images, labels).

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    data = import_data_library("sklearn.datasets", "scikit-learn").load_digits()
    images = np.asarray(data.data, np.float64) / LARGEST_PIXEL
    labels = np.asarray(data.target)
    classes = len(data.target_names)
    return Model(
        name="digits",
        title=f"logistic regression on {len(images)} handwritten digits",
        fun=objective,
        params={
            "weights": np.zeros((images.shape[1], classes)),
            "bias": np.zeros(classes),
        },
        args=(images, labels),
        note="Convex. Minimizes what scikit-learn's LogisticRegression(C=1.0) minimizes, divided "
        "by C and the number of images.",
        metrics=metrics,
    )
