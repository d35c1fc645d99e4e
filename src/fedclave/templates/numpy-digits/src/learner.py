# SPDX-License-Identifier: Apache-2.0
"""A network of one hidden layer for 8x8 pictures of digits, in NumPy."""

import numpy as np

from fedclave.learners.numpy import Fit, NumpyLearner

from .data import load


class Digits:
    """64 inputs, ``hidden`` rectified units, 10 outputs; cross-entropy, mini-batch SGD."""

    def __init__(self, site, hidden):
        self.site, self.hidden = site, hidden

    def weights(self):
        """The same at every party before round 1."""
        rng = np.random.default_rng(self.site.seed)
        w1 = rng.normal(0, 64**-0.5, (64, self.hidden)).astype("f4")
        w2 = rng.normal(0, self.hidden**-0.5, (self.hidden, 10)).astype("f4")
        return {"w1": w1, "b1": np.zeros(self.hidden, "f4"), "w2": w2, "b2": np.zeros(10, "f4")}

    def fit(self, weights, *, rng, pull, epochs=1, batch_size=32, learning_rate=0.1):
        """One task ``run: fit`` of the plan; the keywords with defaults are its settings."""
        (x, y), _ = load(self.site.data)
        losses = []
        for _ in range(epochs):
            order = rng.permutation(len(x))
            for batch in np.split(order, range(batch_size, len(x), batch_size)):
                loss, gradient = loss_and_gradient(weights, x[batch], y[batch])
                gradient = pull(weights, gradient)
                for name in weights:
                    weights[name] -= np.float32(learning_rate) * gradient[name]
                losses.append(loss)
        return Fit(params=weights, examples=len(x), metrics={"loss": np.mean(losses)})

    def evaluate(self, weights):
        """Loss and accuracy on the rows that are not trained on."""
        _, (x, y) = load(self.site.data)
        p = forward(weights, x)[1]
        metrics = {"loss": cross_entropy(p, y), "accuracy": np.mean(p.argmax(1) == y)}
        return Fit(examples=len(x), metrics=metrics)


def forward(weights, x):
    """The hidden layer, and the probability of each digit."""
    hidden = np.maximum(x @ weights["w1"] + weights["b1"], 0)
    scores = hidden @ weights["w2"] + weights["b2"]
    exp = np.exp(scores - scores.max(1, keepdims=True))
    return hidden, exp / exp.sum(1, keepdims=True)


def cross_entropy(p, y):
    """Mean of -log p of the true digit."""
    return -np.mean(np.log(p[np.arange(len(y)), y] + 1e-12))


def loss_and_gradient(weights, x, y):
    """The mean loss of a batch and its gradient, by hand."""
    hidden, p = forward(weights, x)
    out = (p - np.eye(10, dtype="f4")[y]) / len(y)
    back = (out @ weights["w2"].T) * (hidden > 0)
    gradient = {"w1": x.T @ back, "b1": back.sum(0), "w2": hidden.T @ out, "b2": out.sum(0)}
    return cross_entropy(p, y), gradient


def build(site, hidden: int = 32):
    """The learner of one party; ``hidden`` is a setting of the plan."""
    return NumpyLearner(Digits(site, hidden))
