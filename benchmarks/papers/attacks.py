"""What can be told of a client from what it sends? Probes for `leaks.py`.

Each takes arrays that were read off the wire, and images or labels that the attacker has of its
own. None is the strongest that there is: they show what leaks at least.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import KDTree
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from policies.splitting.halves_torch import learn_tail, losses

Array = npt.NDArray[Any]

# ------------------------------------------------------------------ pictures

RIDGES: Final = (1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
WIDTHS: Final = (0.3, 1.0)
"""Of the Gaussian kernel: over the median squared distance."""
FOLDS: Final = 5
COMPONENTS: Final = 100
"""Of images, by which kernels are chosen."""


def rebuilt(known: Array, images: Array, seen: Array) -> Array:
    """Return images that go with activations, by kernel ridge regression.

    Kernel, width and ridge are those that do best on a fifth of the attacker's own images; then
    all of them are used.

    Args:
        known: Activations of the attacker's images, as they would be sent, shape (n, d).
        images: These images, shape (n, pixels), from 0 to 1.
        seen: Activations that victims have sent, shape (m, d).

    Returns:
        Shape (m, pixels), from 0 to 1.

    Cost:
        O(n^2 d + n^3) for each kernel and ridge.
    """
    centre, mean = known.mean(axis=0), images.mean(axis=0)
    known = (known - centre).astype(np.float64)
    seen = (seen - centre).astype(np.float64)
    inner, across = known @ known.T, seen @ known.T
    held = len(known) // FOLDS
    few = _few(images - mean)
    best: tuple[float, Array, Array, float] | None = None
    for own, other in _kernels(inner, across, (seen**2).sum(axis=1)):
        for ridge in RIDGES:
            found = _solved(own[held:, held:], own[:held, held:], few[held:], ridge)
            error = float(((found - few[:held]) ** 2).mean())
            if best is None or error < best[0]:
                best = (error, own, other, ridge)
    assert best is not None  # noqa: S101  # there are kernels
    return np.clip(_solved(best[1], best[2], images - mean, best[3]) + mean, 0, 1)


def _few(images: Array) -> Array:
    """Return images by their first components, which are enough to choose by."""
    _, found = np.linalg.eigh(images.T @ images)
    few: Array = images @ found[:, -COMPONENTS:]
    return few


def _kernels(inner: Array, across: Array, squares: Array) -> Iterator[tuple[Array, Array]]:
    """Yield kernels among the attacker's, and from the victims' to these."""
    yield inner, across
    own = np.diag(inner)[:, None] + np.diag(inner) - 2 * inner
    other = squares[:, None] + np.diag(inner) - 2 * across
    middle = float(np.median(own))
    for width in WIDTHS:
        yield np.exp(-width * own / middle), np.exp(-width * other / middle)


def _solved(own: Array, other: Array, targets: Array, ridge: float) -> Array:
    """Return what kernel ridge regression makes of others; the ridge is in mean diagonals."""
    lifted = own + ridge * np.trace(own) / len(own) * np.eye(len(own))
    found: Array = other @ cho_solve(cho_factor(lifted), targets.astype(np.float64))
    return found


def psnr(found: Array, true: Array) -> float:
    """Return the mean over images of the peak signal to noise ratio in dB, 60 at the most."""
    errors = ((found - true) ** 2).mean(axis=1)
    return float((-10 * np.log10(np.maximum(errors, 1e-6))).mean())


def ssim(found: Array, true: Array) -> float:
    """Return the mean structural similarity of images of 28 x 28, shape (n, 784).

    Source:
        Wang et al. 2004: a Gaussian window of 11 x 11 with a deviation of 1.5, constants 0.01 and
        0.03 of a range of 1, borders left out.
    """
    at = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(at**2) / (2 * 1.5**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def mean(x: Tensor) -> Tensor:
        return functional.conv2d(x, window)

    x, y = (torch.from_numpy(a.astype(np.float64)).reshape(-1, 1, 28, 28) for a in (found, true))
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    a, b = 0.01**2, 0.03**2
    map_ = (2 * mx * my + a) * (2 * vxy + b) / ((mx**2 + my**2 + a) * (vx + vy + b))
    return float(map_.mean())


# ------------------------------------------------------------------ labels


def by_gradient(tail: nn.Module, z: Tensor, gradient: Tensor) -> Array:
    """Return the labels that explain gradients dL/dz best.

    For a linear tail, dL/dz is ``(p - e_y) @ W / n`` with p the softmax of the tail. The encoder's
    side knows z, W and p, so that there are as many candidates as classes; the nearest is taken.
    Of a gradient that was sent in part only that part is compared.

    Args:
        tail: What the client has, as far as is known: one linear layer.
        z: The features that were sent to the client, shape (n, features).
        gradient: What came back, shape (n, features).

    Source:
        That gradients give labels away: Li et al. 2021, arXiv:2102.08504, of two classes.
    """
    weight = next(p for p in tail.parameters() if p.ndim == 2)
    with torch.no_grad():
        p = functional.softmax(tail(z), dim=1)
        outcomes = p[:, None, :] - torch.eye(p.shape[1])
        expected = outcomes @ weight / len(z)
        told = gradient != 0
        told |= ~told.any(dim=1, keepdim=True)  # all zero: the label is what the tail is sure of
        apart = (expected - gradient[:, None, :]) * told[:, None, :]
        found: Array = (apart**2).sum(dim=2).argmin(dim=1).numpy()
    return found


def follow(tail: nn.Module, lr: float, z: Tensor, y: Array) -> None:
    """Take the step of plain SGD that a client's tail takes, if these are its labels."""
    tail.zero_grad()
    learn_tail(tail, z, torch.from_numpy(y))
    with torch.no_grad():
        for p in tail.parameters():
            p.sub_(p.grad, alpha=lr)


ROUNDING: Final = 2e-7
"""Error of a difference of losses in float32, about: deviation over the mean loss."""
LIKELY: Final = 3000
"""Labellings of each half of a batch that are tried by their own likelihood."""
NEAR: Final = 4
"""Right halves that are looked at for each left one."""


class Scalars:
    """Finds the labels of a batch from differences of its mean loss.

    The mean is over examples, and each example's difference is one of as many numbers as there are
    classes, which the encoder's side can compute: it knows the features by moved weights, which it
    has sent, and the published tail. Batches of more than five examples are cut into two halves
    whose sums must meet.

    Args:
        tail: As it was published.
        z: Features: of the batch, then by weights moved along each direction, shape
            (1 + q, n, features).
        scalars: What the client answered, shape (q,).
        prior: Log probability of each label by other means, shape (n, classes).
    """

    def __init__(self, tail: nn.Module, z: Tensor, scalars: Array, prior: Array) -> None:
        self._n, self._classes = prior.shape
        looks = [
            torch.stack(
                [losses(tail, row, torch.full((self._n,), c)) for c in range(prior.shape[1])]
            )
            for row in z
        ]
        moved = torch.stack(looks[1:]) - looks[0]  # (q, classes, n)
        self._error = ROUNDING * max(float(looks[0].mean()), 1.0)
        self._steps = moved.permute(2, 1, 0).double().numpy() / self._n  # (n, classes, q)
        self._told = scalars.astype(np.float64)
        self._prior = prior
        self._met: Array | None = None

    def alone(self) -> Array:
        """Return the labels by the scalars alone."""
        return self._best(weight=0.0)

    def together(self) -> Array:
        """Return the labels by scalars and prior."""
        return self._best(weight=1.0)

    def _best(self, weight: float) -> Array:
        if self._n <= 5:
            sums, priors = self._sums(0, self._n)
            off = ((sums - self._told) ** 2).sum(axis=1)
            return self._digits(
                int((weight * priors - off / (2 * self._error**2)).argmax()), self._n
            )
        if self._met is None:
            self._met = self._meeting()  # both ways begin with it, and it takes longest
        pairs = [self._met]
        if weight:
            pairs.append(self._likeliest())
        scored = [(self._score(labels, weight), tuple(labels)) for labels in pairs]
        return np.array(max(scored)[1])

    def _score(self, labels: Array, weight: float) -> float:
        rows = np.arange(self._n)
        off = ((self._steps[rows, labels].sum(axis=0) - self._told) ** 2).sum()
        return float(weight * self._prior[rows, labels].sum() - off / (2 * self._error**2))

    def _meeting(self) -> Array:
        """Return the labels whose halves meet best in the first directions, then in all."""
        half = self._n // 2
        left, _ = self._sums(0, half)
        right, _ = self._sums(half, self._n)
        few = min(4, len(self._told))
        off, at = KDTree(right[:, :few]).query((self._told - left)[:, :few], k=NEAR)
        near = np.argsort(off.reshape(-1))[:50_000]
        lefts, rights = near // NEAR, at.reshape(-1)[near]
        exact = ((left[lefts] + right[rights] - self._told) ** 2).sum(axis=1)
        best = int(exact.argmin())
        return self._joined(int(lefts[best]), int(rights[best]), half)

    def _likeliest(self) -> Array:
        """Return the best labels whose halves are both likely by the prior."""
        half = self._n // 2
        left, left_prior = self._sums(0, half)
        right, right_prior = self._sums(half, self._n)
        lefts, rights = (np.argsort(-p)[:LIKELY] for p in (left_prior, right_prior))
        want, have = self._told - left[lefts], right[rights]
        off = (want**2).sum(axis=1)[:, None] + (have**2).sum(axis=1) - 2 * want @ have.T
        score = left_prior[lefts][:, None] + right_prior[rights] - off / (2 * self._error**2)
        i, j = np.unravel_index(int(score.argmax()), score.shape)
        return self._joined(int(lefts[i]), int(rights[j]), half)

    def _sums(self, begin: int, end: int) -> tuple[Array, Array]:
        """Return the sums of all labellings of some examples, and their priors."""
        sums, priors = np.zeros((1, len(self._told))), np.zeros(1)
        for steps, prior in zip(self._steps[begin:end], self._prior[begin:end], strict=True):
            sums = (sums[:, None] + steps).reshape(-1, len(self._told))
            priors = (priors[:, None] + prior).reshape(-1)
        return sums, priors

    def _joined(self, left: int, right: int, half: int) -> Array:
        return np.concatenate([self._digits(left, half), self._digits(right, self._n - half)])

    def _digits(self, number: int, count: int) -> Array:
        """Return the labels that a place in `_sums` stands for."""
        powers = self._classes ** np.arange(count)[::-1]
        return number // powers % self._classes


def probe(known: Array, labels: Array) -> LogisticRegression:
    """Return a linear classifier of features, learnt from the attacker's labelled images."""
    return LogisticRegression(C=10.0, max_iter=300).fit(known, labels)


def clusters(known: Array, labels: Array, seen: Array, seed: int) -> Array:
    """Return labels of k-means, each cluster called what most labelled images in it are."""
    classes = int(labels.max()) + 1
    means = KMeans(classes, n_init=3, random_state=seed).fit(np.concatenate([seen, known]))
    votes = np.zeros((classes, classes))
    np.add.at(votes, (means.predict(known), labels), 1)
    named: Array = votes.argmax(axis=1)[means.predict(seen)]
    return named
