"""Fixed points and thresholds of real phase retrieval by plain quadrature, with numpy and scipy.

The model is y = |z| + sqrt(delta) n with z = w*.x/sqrt(d), for Gaussian inputs and weights (Bayes-optimal, real).
With odds = q/(1 - q), the state evolution is odds = alpha E g^2, so that alpha = odds/E g^2 at every q. No fixed point
is searched: alpha follows from q. The posterior mean of z is integrated numerically over both half-lines.
Writes phase_retrieval.csv and phase_retrieval_thresholds.csv into the folder of this file.
"""

import csv
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar

FOLDER = Path(__file__).parent
NOISES = [0.0, 0.01, 0.1, 1.0]
OVERLAPS = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95]


def gauss(x, variance=1.0):
    return np.exp(-x * x / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def trapezoid(reach, nodes):
    x = np.linspace(-reach, reach, nodes)
    return x, np.full(nodes, x[1] - x[0])


def half_line(reach, nodes):
    x, w = np.polynomial.legendre.leggauss(nodes)
    return reach * (x + 1) / 2, reach * w / 2


def gradient2(q, delta):
    """E g^2 with g = (E[z | y, omega] - omega)/(1 - q)."""
    v = 1 - q
    if delta == 0:
        # Given y, z is y or -y. The integrand is smooth in (x, omega), so that the trapezoidal rule is exact to rounding.
        u, w = trapezoid(9, 1201)
        z = u[:, None]
        omega = q * z + np.sqrt(q * v) * u[None, :]
        mean = z * np.tanh(omega * z / v)
        return float(np.einsum("i,j,ij->", w * gauss(u), w * gauss(u), ((mean - omega) / v) ** 2))
    z, wz = half_line(8.5, 600)
    u, wu = trapezoid(8.5, 481)
    step = min(0.1 * np.sqrt(delta), 0.05)
    y = np.arange(-9 * np.sqrt(delta), 8.5 + 9 * np.sqrt(delta), step)
    likelihood = gauss(y[:, None] - z[None, :], delta)
    total = 0.0
    for u_i, w_i in zip(u, wu):
        omega = np.sqrt(q) * u_i
        right = gauss(z - omega, v) * wz
        left = gauss(z + omega, v) * wz
        evidence = likelihood @ (right + left)
        first = likelihood @ (z * (right - left))
        seen = evidence > 1e-250
        g = np.where(seen, (first / np.where(seen, evidence, 1) - omega) / v, 0)
        total += w_i * gauss(u_i) * np.sum(evidence * g * g) * step
    return total


def alpha(q, delta):
    return q / (1 - q) / gradient2(q, delta)


def weak_recovery(delta):
    """1/E_y[(E[z^2 | y] - 1)^2]."""
    if delta == 0:
        u, w = trapezoid(12, 4001)
        return 1 / float(np.sum(w * gauss(u) * (u * u - 1) ** 2))
    z, wz = half_line(9, 400)
    y = np.arange(-10 * np.sqrt(delta), 9 + 10 * np.sqrt(delta), min(0.25 * np.sqrt(delta), 0.05))
    joint = gauss(y[:, None] - z[None, :], delta) * 2 * gauss(z) * wz
    evidence = joint.sum(1)
    seen = evidence > 1e-250
    second = np.where(seen, (joint @ (z * z)) / np.where(seen, evidence, 1) - 1, 0)
    return 1 / float(np.sum(evidence * second**2) * (y[1] - y[0]))


def algorithmic():
    """The largest alpha without noise at which a fixed point with an overlap below one exists, and its overlap."""
    best = minimize_scalar(lambda q: -alpha(q, 0.0), bounds=(0.5, 0.95), method="bounded", options={"xatol": 1e-8})
    return -best.fun, best.x


def main():
    with open(FOLDER / "phase_retrieval.csv", "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["delta", "alpha", "q"])
        for delta in NOISES:
            for q in OVERLAPS:
                here, next_to = alpha(q, delta), alpha(q + 1e-3, delta)
                # Where alpha falls with q, the fixed point is unstable.
                if next_to > here:
                    rows.writerow([delta, f"{here:.12f}", q])
    with open(FOLDER / "phase_retrieval_thresholds.csv", "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["name", "delta", "alpha"])
        for delta in NOISES:
            rows.writerow(["weak_recovery", delta, f"{weak_recovery(delta):.12f}"])
        rows.writerow(["algorithmic", 0.0, f"{algorithmic()[0]:.8f}"])


if __name__ == "__main__":
    main()
