"""The state evolutions as they are solved by hand today, with NumPy, SciPy and Numba: the yardstick of benches/README.md.

The equations and the number of nodes (scrambled Sobol points, 2^log2_nodes for each scramble) are those of the library. There
is one start of the iteration, and only the order parameters are computed: no gauges, no standard errors of the errors.
`solve(scenario)` takes a scenario of the library's JSON schema with one stage on fresh sequences.
"""
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np
from numba import njit
from scipy.optimize import brentq
from scipy.stats import chi, norm, qmc


def anderson(step, x, tolerance, most=300, memory=5, mixing=0.7, plain=4):
    """The fixed point of `step`, by Anderson acceleration."""
    xs, rs = [], []
    for k in range(most):
        r = step(x) - x
        if np.abs(r).max() < tolerance:
            return x
        xs, rs = xs[-memory:] + [x], rs[-memory:] + [r]
        move = mixing * r
        if k >= plain:
            dx, dr = np.diff(xs, axis=0).T, np.diff(rs, axis=0).T
            move = move - (dx + mixing * dr) @ np.linalg.lstsq(dr, r, rcond=1e-10)[0]
        x = x + np.clip(move, -0.7, 0.7)
    raise RuntimeError(f"no fixed point: residual {np.abs(r).max():.1e}")


def uniforms(dimensions, log2_nodes, seed):
    return np.clip(qmc.Sobol(dimensions, seed=seed).random_base2(log2_nodes), 1e-13, 1 - 1e-13)


# ---- pre-training: the spectrum of y = snr s* + Z for a Wishart teacher, and what the soft threshold makes of it

THETA, THETA_WEIGHTS = np.polynomial.legendre.leggauss(200)


def spectrum(snr, kappa0, cut=-np.inf):
    """Nodes above `cut`, their weights, the density, and the real part of the Stieltjes transform."""
    a, c = snr / np.sqrt(kappa0), snr * np.sqrt(kappa0)
    w = np.roots([1, -2 * a, a * a - 1 - snr * snr, 2 * a, -a * a])
    w = w[np.abs(w.imag) < 1e-9 * (1 + np.abs(w))].real
    edges = np.sort(w + 1 / w + c * w / (w - a))
    nodes, weights = [], []
    for low, high in edges.reshape(-1, 2):
        low = max(low, cut)
        if high > low:
            theta, half = (THETA + 1) * np.pi / 2, (high - low) / 2
            nodes.append((low + high) / 2 + half * np.cos(theta))
            weights.append(THETA_WEIGHTS * np.pi / 2 * half * np.sin(theta))
    x = np.concatenate(nodes)
    companion = np.zeros((len(x), 3, 3))
    companion[:, 0] = np.stack([x + a - c, -1 - a * x, np.full_like(x, a)], 1)
    companion[:, 1, 0] = companion[:, 2, 1] = 1
    w = np.linalg.eigvals(companion)
    g = 1 / np.take_along_axis(w, w.imag.argmin(1)[:, None], 1)[:, 0]
    return x, np.concatenate(weights), np.abs(g.imag) / np.pi, g.real


def input_channel(q_hat, m_hat, v_hat, ridge, kappa0):
    """Q, M, V from their conjugates; `ridge` is lambda sqrt(kappa)."""
    noise = np.sqrt(q_hat)
    snr, cut = m_hat / noise, 2 * ridge / noise
    x, weights, density, real = spectrum(snr, kappa0, cut)
    f, rho = x - cut, weights * density
    response = 2 * (f * real * rho).sum()
    return np.array([q_hat / v_hat**2 * (f * f * rho).sum(),
                     noise / v_hat * ((x * f * rho).sum() - response) / snr, response / v_hat])


def pretrain(model, training, output, tolerance):
    kappa0 = model["teacher"]["wishart"]["kappa0"]
    ridge = training["lambda"] * np.sqrt(training.get("kappa", 1.0))
    step = lambda x: np.log(input_channel(*output(*np.exp(x)), ridge, kappa0))
    return dict(zip("qmv", np.exp(anderson(step, np.log([0.5, 0.4, 0.5]), tolerance))))


def pretrain_linear(model, training):
    T, q0 = model["tokens"], 1 + model["teacher"]["wishart"]["kappa0"]
    rate = 4 * training["alpha"] * T * (T + 1) / 2

    def output(q, m, v):
        c = 2 / T**2 / (1 + 4 * v / T**2)
        return 2 * rate * c * c * (q0 - 2 * m + q + model["delta"] / 2), rate * c, rate * c

    return pretrain(model, training, output, 1e-12)


def pretrain_bayes(model, training):
    T, kappa0 = model["tokens"], model["teacher"]["wishart"]["kappa0"]
    data = 2 * training["alpha"] * (T * (T + 1) / 2 - (model["activation"] == "softmax"))

    def scaled_error(q_hat):
        _, weights, density, _ = spectrum(np.sqrt(q_hat), kappa0)
        return 1 - 4 * np.pi**2 / 3 * (weights * density**3).sum()

    excess = lambda t: scaled_error(np.exp(t)) + np.exp(t) * model["delta"] / 2 - data
    q_hat = np.exp(brentq(excess, np.log(data) - 12, np.log(data) + 12, xtol=1e-13, rtol=1e-14))
    return {"q": 1 + kappa0 - scaled_error(q_hat) / q_hat}


# ---- fine-tuning of linear attention

def lora_linear(model, frozen, training, log2_nodes, seed):
    T, alpha, ridge = model["tokens"], training["alpha"], training["lambda"]
    K, a = T * (T + 1) // 2, 4 / model["tokens"] ** 2
    noise = model["delta"] / 2 + frozen["q0"] - 2 * frozen["m"] + frozen["q"]
    u = uniforms(1 + K + T, log2_nodes, seed)
    length, g = chi.ppf(u[:, 0], T), norm.ppf(u[:, 1:])
    B = np.zeros((len(u), T, T))
    for k, (i, j) in enumerate(zip(*np.triu_indices(T))):
        B[:, i, j] = B[:, j, i] = np.sqrt(2 * noise) * g[:, k] / (1 if i == j else np.sqrt(2))
    B[:, 0, 0] += length**2
    B[:, range(T), range(T)] -= 1
    values, vectors = np.linalg.eigh(B)
    # In the eigenbasis of B, largest eigenvalue first; one array for each coordinate.
    b0, c, f = values.T[::-1].copy(), np.abs(length[:, None] * vectors[:, 0]).T[::-1].copy(), g[:, K:].T.copy()

    def prox(b, omega, v):
        """t = tau - max(a b_1, 1/v) at the root of the secular equation, and tau - a b."""
        base = np.maximum(a * b[0], 1 / v)
        gap, e, w2 = base - a * b, base - 1 / v, (omega / v) ** 2
        high = (a * w2.sum(0)) ** (1 / 3) + 1e-300
        low = np.maximum(a * (w2 / (high + gap) ** 2).sum(0) - e, 1e-60)
        low = np.maximum(low, np.sqrt(a * w2[0] / (high + e)) - gap[0])
        t = np.sqrt(low * high)
        for _ in range(80):
            r = 1 / (t + gap)
            s = (w2 * r * r).sum(0)
            log_ratio = np.log(a * s / (t + e))
            low, high = np.where(log_ratio > 0, t, low), np.where(log_ratio > 0, high, t)
            slope = t * (-2 * (w2 * r**3).sum(0) / s - 1 / (t + e))
            new = t * np.exp(np.clip(-log_ratio / slope, -20, 20))
            new = np.where((new >= low) & (new <= high), new, np.sqrt(low * high))
            done = np.abs(new / t - 1).max() < 1e-13
            t = new
            if done:
                break
        return t + gap

    def step(x):
        q, m, v = np.exp(x)
        s = np.sqrt(max(q - m * m, 1e-300))
        omega, b = m * c + s * f, b0 + q
        denominator = prox(b, omega, v)
        x, r = omega / v / denominator, 1 / denominator
        g, y = (x - omega) / v, x * r
        norm2 = 1 + 2 * a * (x * y).sum(0)
        trace = r.sum(0) - 2 * a * (y * y).sum(0) / norm2
        hc = r * c - 2 * a * y * (y * c).sum(0) / norm2
        # Where omega_1 changes sign, the proximal point jumps.
        rest = (omega[1:] / v / (a * (b[0] - b[1:]))) ** 2
        jump = 2 / v * np.sqrt(np.maximum(b[0] - 1 / (a * v) - rest.sum(0), 0))
        jump *= np.exp(-((m * c[0] / s) ** 2) / 2) / (np.sqrt(2 * np.pi) * s)
        v_hat = -alpha * np.mean((trace / v - T) / v + jump)
        m_hat = alpha * np.mean(a * ((c * x).sum(0) * trace + (x * hc).sum(0)) / v
                                + jump * (omega[1:] * c[1:] / (b[0] - b[1:])).sum(0))
        q_hat = alpha * np.mean((g * g).sum(0))
        eta = -2 * alpha / T**2 * np.mean((x * x - b).sum(0))
        root = v_hat + 2 * ridge + 2 * eta
        return np.log([(m_hat**2 + q_hat) / root**2, m_hat / root, 1 / root])

    return dict(zip("qmv", np.exp(anderson(step, np.log([1.0, 0.95, 0.1]), 1e-10))))


# ---- softmax: the proximal point of a sample, in a compiled kernel for both stages

@njit(fastmath=True, cache=True)
def attention(x, z, basis, q, tuned, S):
    """Softmax of the logits: z + x x^T - q I if fine-tuned, a combination of the basis otherwise."""
    T = S.shape[0]
    for a in range(T):
        top = -1e300
        for b in range(T):
            if tuned:
                S[a, b] = z[a, b] + x[a] * x[b] - (q if a == b else 0.0)
            else:
                S[a, b] = 0.0
                for i in range(len(x)):
                    S[a, b] += x[i] * basis[i, a, b]
            top = max(top, S[a, b])
        total = 0.0
        for b in range(T):
            S[a, b] = np.exp(S[a, b] - top)
            total += S[a, b]
        for b in range(T):
            S[a, b] /= total


@njit(fastmath=True, cache=True)
def value(x, omega, y, S, inverse_v):
    f = 0.0
    for a in range(S.shape[0]):
        for b in range(S.shape[0]):
            f += (S[a, b] - y[a, b]) ** 2
    for i in range(len(x)):
        f += 0.5 * inverse_v * (x[i] - omega[i]) ** 2
    return f


@njit(fastmath=True, cache=True)
def derivatives(x, omega, y, S, basis, inverse_v, tuned, J, G, g, H):
    """Gradient and Hessian of the objective; G is the gradient of the loss in the logits."""
    T, n = S.shape[0], len(x)
    g[:] = 0.0
    H[:] = 0.0
    for a in range(T):
        mean, square = 0.0, 0.0
        for b in range(T):
            mean += S[a, b] * (S[a, b] - y[a, b])
            square += S[a, b] * S[a, b]
            for i in range(n):
                J[b, i] = ((x[b] if i == a else 0.0) + (x[a] if i == b else 0.0)) if tuned else basis[i, a, b]
        for b in range(T):
            d = S[a, b] - y[a, b] - mean
            G[a, b] = 2 * S[a, b] * d
            for i in range(n):
                g[i] += G[a, b] * J[b, i]
            for c in range(T):
                e = S[a, c] - y[a, c] - mean
                R = -S[a, b] * S[a, c] * (d + e + S[a, b] + S[a, c] - square)
                if b == c:
                    R += S[a, b] * (d + S[a, b])
                for i in range(n):
                    left = 2 * R * J[b, i]
                    if left != 0.0:
                        for j in range(n):
                            H[i, j] += left * J[c, j]
    for i in range(n):
        g[i] += inverse_v * (x[i] - omega[i])
        H[i, i] += inverse_v
        if tuned:
            for j in range(n):
                H[i, j] += G[i, j] + G[j, i]


@njit(fastmath=True, cache=True)
def newton_step(H, g, shift, L, step):
    """Solves (H + shift) step = g by Cholesky's decomposition; false if that is not positive."""
    n = len(g)
    for i in range(n):
        for j in range(i + 1):
            s = H[i, j] + (shift if i == j else 0.0)
            for k in range(j):
                s -= L[i, k] * L[j, k]
            if i == j:
                if s <= 1e-14:
                    return False
                L[i, i] = np.sqrt(s)
            else:
                L[i, j] = s / L[j, j]
    for i in range(n):
        s = g[i]
        for k in range(i):
            s -= L[i, k] * step[k]
        step[i] = s / L[i, i]
    for i in range(n - 1, -1, -1):
        s = step[i]
        for k in range(i + 1, n):
            s -= L[k, i] * step[k]
        step[i] = s / L[i, i]
    return True


@njit(fastmath=True, cache=True)
def proximal_points(omega, starts, z, y, basis, q, v, tuned, polished):
    """The lowest minimum from the best starts; with the trace of G, which is minus the derivative of the loss in q."""
    n, count, size = starts.shape
    T, inverse_v = y.shape[1], 1 / v
    best, traces = np.empty((n, size)), np.empty(n)
    S, trial, J, G = np.empty((T, T)), np.empty((T, T)), np.empty((T, size)), np.empty((T, T))
    g, H, L = np.empty(size), np.empty((size, size)), np.empty((size, size))
    step, x, new, screened = np.empty(size), np.empty(size), np.empty(size), np.empty(count)
    for k in range(n):
        for s in range(count):
            attention(starts[k, s], z[k], basis, q, tuned, S)
            screened[s] = value(starts[k, s], omega[k], y[k], S, inverse_v)
        order = np.argsort(screened)
        lowest = 1e300
        for s in order[:polished]:
            x[:] = starts[k, s]
            attention(x, z[k], basis, q, tuned, S)
            f, shift = screened[s], 0.0
            for _ in range(60):
                derivatives(x, omega[k], y[k], S, basis, inverse_v, tuned, J, G, g, H)
                if np.abs(g).max() < 1e-10 * (1 + inverse_v):
                    break
                accepted, lower = False, f
                for _ in range(30):
                    if newton_step(H, g, shift, L, step):
                        new[:] = x - step
                        attention(new, z[k], basis, q, tuned, trial)
                        lower = value(new, omega[k], y[k], trial, inverse_v)
                        accepted = lower <= f + 1e-15 * (1 + abs(f))
                        if accepted:
                            break
                    shift = max(4 * shift, 1e-2 * (inverse_v + 0.1))
                if not accepted:
                    break
                x[:], S[:], f = new, trial, lower
                shift = shift * 0.25 if shift > 1e-6 else 0.0
            if f < lowest - 1e-12:
                lowest, traces[k] = f, np.trace(G)
                best[k] = x
    return best, traces


def softmax(a):
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def visible_basis(T):
    """Orthonormal basis of the symmetric matrices orthogonal to 11^T, which softmax cannot see."""
    K = T * (T + 1) // 2
    units = np.zeros((K, T, T))
    for k, (i, j) in enumerate(zip(*np.triu_indices(T))):
        units[k, i, j] = units[k, j, i] = 1 if i == j else np.sqrt(0.5)
    ones = units.sum((1, 2)) / T
    complement = np.linalg.svd(ones[None])[2][1:]
    return np.tensordot(complement, units, 1)


def pretrain_softmax(model, training, log2_nodes, seed):
    T, q0 = model["tokens"], 1 + model["teacher"]["wishart"]["kappa0"]
    basis = visible_basis(T)
    size = len(basis)
    nodes = norm.ppf(uniforms(2 * size, log2_nodes, seed))
    z1, z2 = nodes[:, :size], nodes[:, size:]
    s1 = np.sqrt(2 * q0 + model["delta"])
    label = s1 * z1
    y = softmax(np.tensordot(label, basis, 1))
    state = {"calls": 0}

    def output(q, m, v):
        slope = 2 * m / s1**2
        rest = np.sqrt(max(2 * q - 4 * m * m / s1**2, 1e-12))
        omega = slope * label + rest * z2
        # All starts every tenth time, and the last proximal point in between.
        cold = state["calls"] % 10 == 0
        starts = [omega, label, (omega + label) / 2] if cold else [state["last"]]
        state["calls"] += 1
        starts = np.ascontiguousarray(np.stack(starts, 1))
        h, _ = proximal_points(omega, starts, y, y, basis, 0.0, 2 * v, False, starts.shape[1])
        state["last"] = h
        g = (h - omega) / (2 * v)
        along_omega = np.mean((g * z2).sum(1)) / rest
        along_label = np.mean((g * z1).sum(1)) / s1 - slope * along_omega
        rate = 4 * training["alpha"]
        return rate * np.mean((g * g).sum(1)), rate * along_label, -rate * along_omega

    return pretrain(model, training, output, 1e-7)


def lora_softmax(model, frozen, training, log2_nodes, seed):
    T, alpha, ridge = model["tokens"], training["alpha"], training["lambda"]
    basis = visible_basis(T)
    size = len(basis)
    nodes = norm.ppf(uniforms(2 * T + 2 * size, log2_nodes, seed))
    c, f = nodes[:, :T].copy(), nodes[:, T:2 * T].copy()
    zc = np.sqrt(2 * frozen["q"]) * nodes[:, 2 * T:2 * T + size]
    spread = np.sqrt(2 * (frozen["q0"] - frozen["m"] ** 2 / frozen["q"]) + model["delta"])
    label = np.tensordot(frozen["m"] / frozen["q"] * zc + spread * nodes[:, 2 * T + size:], basis, 1)
    label += c[:, :, None] * c[:, None] - np.eye(T)
    z, y = np.ascontiguousarray(np.tensordot(zc, basis, 1)), softmax(label)
    # The top eigenvector of what chi chi^T should be, with and without the part that softmax cannot see.
    target = label - z
    directions = []
    for t in (target, target - target.sum((1, 2), keepdims=True) / T**2):
        values, vectors = np.linalg.eigh(t)
        directions.append((values[:, -1:], vectors[:, :, -1]))
    state = {"last": None}

    def step(x):
        q, m, v = np.exp(x)
        omega = m * c + np.sqrt(max(q - m * m, 1e-12)) * f
        starts = [omega, -omega, c, -c, 0.05 * omega, omega - 2 * omega.mean(1, keepdims=True)]
        for top, vector in directions:
            start = np.sqrt(np.maximum(top + q, 0.05)) * vector
            starts += [start, -start]
        for token in range(T):
            flipped = omega.copy()
            flipped[:, token] *= -1
            starts.append(flipped)
        if state["last"] is not None:
            starts.append(state["last"])
        starts = np.ascontiguousarray(np.stack(starts, 1))
        proximal, traces = proximal_points(omega, starts, z, y, basis, q, v, True, 4)
        state["last"] = proximal
        g = (proximal - omega) / v
        # By parts, with the second moments of the nodes themselves.
        moments = np.array([[np.mean((p * r).sum(1)) for r in (omega, c)] for p in (omega, c)])
        along = T * np.linalg.solve(moments, [np.mean((g * p).sum(1)) for p in (omega, c)])
        q_hat, v_hat, m_hat = alpha * np.mean((g * g).sum(1)), -alpha * along[0], alpha * along[1]
        root = v_hat + 2 * ridge - 2 * alpha * np.mean(traces)
        return np.log([(m_hat**2 + q_hat) / root**2, m_hat / root, 1 / root])

    return dict(zip("qmv", np.exp(anderson(step, np.log([1.0, 0.9, 0.3]), 1e-5))))


def solve(scenario):
    """Order parameters: means over the scrambles."""
    model = scenario["model"]
    options = {"log2_nodes": 14, "scrambles": 4} | scenario.get("options", {})
    softmax_model = model["activation"] == "softmax"
    if "pretrain" in scenario:
        if scenario.get("estimator") == "bayes_optimal":
            return pretrain_bayes(model, scenario["pretrain"])
        if not softmax_model:
            return pretrain_linear(model, scenario["pretrain"])
        one = lambda seed: pretrain_softmax(model, scenario["pretrain"], options["log2_nodes"], seed)
    else:
        stage = lora_softmax if softmax_model else lora_linear
        one = lambda seed: stage(model, scenario["frozen"], scenario["lora"], options["log2_nodes"], seed)
    solutions = [one(seed) for seed in range(options["scrambles"])]
    return {name: float(np.mean([solution[name] for solution in solutions])) for name in "qmv"}
