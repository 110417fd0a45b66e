"""Fine-tuning against its ridge, with sliders: ``marimo run python/explorer.py`` (``pip install './python[explorer]'``).

The page is served to this machine alone, and nothing is fetched from a network. A move solves the pre-training, if it has changed, and a
row of fine-tunings along the ridge, on few nodes, so that it mostly takes less than a second, and seldom two; the page says how few. The prediction of one point
with the default nodes is ``lora_asymptotics.solve``.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Fine-tuning against its ridge")

with app.setup:
    import io
    import sys
    from dataclasses import dataclass
    from html import escape
    from pathlib import Path
    from typing import Any

    import marimo as mo
    import matplotlib
    import numpy as np
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # The sources of the package are in the folder of this file. They have no extension module, and are not what is installed.
    sys.path = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]
    import lora_asymptotics as la
    from lora_asymptotics.plot import COLOURS, GREY

    #: Numbers of the fine-tuning that are drawn, with their standard errors.
    CURVES = {
        "errors.test": ("test error E′", "std_error.test"),
        "alignment": ("alignment", "std_error.alignment"),
        "errors.forgetting": ("error on the old task", "std_error.forgetting"),
    }
    #: Iterations after which a fine-tuning is given up. Those that take longer mostly end without a reliable answer.
    PATIENCE = 50
    #: Words of points that can be used; those with any other word are dotted and hatched.
    USABLE = ("good", "marginal", "collapsed")


@app.function
def data(low: float, high: float, per_decade: int = 10) -> list[float]:
    """Steps of a slider with a logarithmic scale, of two digits."""
    steps = np.geomspace(low, high, round(np.log10(high / low) * per_decade) + 1)
    return [float(f"{step:.2g}") for step in steps]


@app.function
def effort(activation: str, rank: int) -> tuple[int, int]:
    """Logarithm of the number of nodes, and number of ridges, with which a move mostly takes less than a second."""
    if rank > 1:
        return 6, 6 if rank == 2 else 5
    return {"linear": 10, "softmax": 8}.get(activation, 6), 16


@app.function
def pretrained(layer: dict[str, Any], alpha: float, ridge: float, log2_nodes: int) -> Any:
    """The pre-training of a layer."""
    options = {"log2_nodes": log2_nodes, "scrambles": 2}
    return la.solve(model=layer, pretrain={"alpha": alpha, "lambda": ridge}, options=options).pretrain


@app.class_definition
@dataclass(frozen=True)
class Curves:
    """A row of fine-tunings: arrays with one entry per ridge."""

    ridges: Any
    #: Numbers and standard errors by their names in the outcome; NaN where there is none.
    values: dict[str, Any]
    #: A status that is no fixed point, ``collapsed``, or the verdict.
    words: list[str]
    #: The error without fine-tuning.
    frozen: float


@app.function
def finetuned(layer: dict[str, Any], stage: Any, training: dict[str, Any], log2_nodes: int, ridges: int) -> Curves:
    """Fine-tunings on top of a pre-training, from large to small ridges, each from the one before."""
    # Fine-tuning sees the pre-training through these numbers.
    weights = {"q0": stage.q0, "q": stage.order.q, "m": stage.order.m, "v": stage.order.v}
    scenario = {
        "model": {name: value for name, value in layer.items() if name != "teacher"},
        "frozen": weights,
        "lora": training,
        "options": {"log2_nodes": log2_nodes, "scrambles": 2, "max_iterations": PATIENCE},
    }
    points = la.sweep(scenario, {"lora.lambda": np.geomspace(3.0, 0.03, ridges)})
    absent = np.full(points.points, np.nan)
    names = [name for curve, (_, spread) in CURVES.items() for name in (curve, spread)]
    values = {name: points.get(f"lora.{name}", absent)[::-1] for name in names}
    statuses = points.get("lora.status", np.full(points.points, None))
    verdicts = points.get("lora.validity.verdict", statuses)
    words = [
        str(verdict if status == "converged" else status or "no solution")
        for status, verdict in zip(statuses, verdicts, strict=True)
    ]
    if not stage.validity.reliable:
        words = ["unreliable pre-training"] * len(words)
    frozen = points.get("lora.errors.frozen", absent)
    return Curves(points["lora.lambda"][::-1], values, words[::-1], float(frozen[0]) if len(frozen) else float("nan"))


@app.function
def stretches(words: list[str]) -> list[tuple[int, int, str]]:
    """First and last point, and word, of all stretches of points that have the same word."""
    found: list[tuple[int, int, str]] = []
    for place, word in enumerate(words):
        if found and found[-1][2] == word:
            found[-1] = found[-1][0], place, word
        else:
            found.append((place, place, word))
    return found


@app.function
def edges(ridges: Any) -> Any:
    """Borders between the ridges, on a logarithmic scale, and the two ends."""
    logs = np.log(ridges)
    middle = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - middle[0]], middle, [2 * logs[-1] - middle[-1]]]))


@app.function
def draw(curves: Curves, chosen: int) -> str:
    """The three curves as SVG. What cannot be used is dotted and hatched, with the word that says why."""
    borders = edges(curves.ridges)
    usable = np.array([word in USABLE for word in curves.words])
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "hatch.linewidth": 0.4}):
        figure = Figure(figsize=(9.6, 3.6), layout="constrained")
        panels = figure.subplots(1, len(CURVES))
        for ax, (name, (label, spread)), colour in zip(panels, CURVES.items(), COLOURS, strict=False):
            values = curves.values[name]
            error = 2 * np.nan_to_num(curves.values[spread])
            for first, last, word in stretches(curves.words):
                if word not in USABLE:
                    low, high = borders[first], borders[last + 1]
                    ax.axvspan(low, high, facecolor="#fbeee9", edgecolor="#e3b7a5", hatch="////", linewidth=0)
                    if last > first:
                        place = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 8}
                        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
                        at = float(np.sqrt(low * high)), 0.03
                        ax.text(*at, word, color="#b3261e", transform=ax.get_xaxis_transform(), bbox=box, **place)
            ax.fill_between(curves.ridges, values - error, values + error, color=colour, alpha=0.2, linewidth=0)
            # A piece between two points is solid if both can be used.
            sound = usable[1:] & usable[:-1]
            for solid, style in ((True, "-"), (False, ":")):
                pieces = np.where(sound == solid, 1.0, np.nan)
                pairs = np.stack([values[:-1] * pieces, values[1:] * pieces, np.full(len(pieces), np.nan)], axis=1)
                places = np.stack([curves.ridges[:-1], curves.ridges[1:], curves.ridges[1:]], axis=1)
                ax.plot(places.ravel(), pairs.ravel(), linestyle=style, color=colour, linewidth=2, gid=f"{name}{style}")
            if name == "errors.test":
                ax.axhline(curves.frozen, color=GREY, linestyle="--", linewidth=1)
                at = {"xy": (0.02, curves.frozen), "xycoords": ax.get_yaxis_transform(), "xytext": (0, -3)}
                ax.annotate("without fine-tuning", textcoords="offset points", color="#555555", fontsize=8, ha="left", va="top", **at)
            ax.axvline(curves.ridges[chosen], color="black", linewidth=0.8)
            if np.isfinite(values[chosen]):
                face = colour if usable[chosen] else "white"
                ax.plot(curves.ridges[chosen], values[chosen], "o", markerfacecolor=face, markeredgecolor=colour)
            ax.set_xscale("log")
            ax.set_xlim(borders[0], borders[-1])
            ax.set_xlabel("fine-tuning ridge λ′")
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.set_title(label, fontsize=11)
            ax.margins(y=0.12)
            if name == "alignment":
                ax.set_ylim(-0.03, 1.03)
        target = io.StringIO()
        FigureCanvasSVG(figure).print_svg(target, metadata={"Date": None})
    text = target.getvalue()
    # What comes before the element is for files.
    return text[text.index("<svg") :]


@app.function
def table(curves: Curves, chosen: int) -> str:
    """The numbers at the chosen ridge, with standard errors and the word in its colour."""
    word = curves.words[chosen]
    colour = {"good": "#00795a", "collapsed": "#00795a", "marginal": "#8a5a00"}.get(word, "#b3261e")
    badge = f'<span id="verdict" style="background:{colour};color:#fff;border-radius:3px;padding:1px 6px">{escape(word)}</span>'
    cells = [f"&lambda;′ = {curves.ridges[chosen]:.3g}", badge]
    for name, symbol in (("errors.test", "E′"), ("alignment", "o<sub>w</sub>"), ("errors.forgetting", "old task")):
        value, error = curves.values[name][chosen], curves.values[CURVES[name][1]][chosen]
        spread = "" if np.isnan(error) else f" &plusmn; {error:.1g}"
        cells.append(f"{symbol} = {value:.4g}{spread}")
    return "<p>" + " &emsp; ".join(cells) + "</p>"


@app.cell
def _():
    tokens = mo.ui.slider(2, 4, value=2, label="tokens T", show_value=True, debounce=True)
    activation = mo.ui.dropdown(["linear", "softmax", "softmax_one", "sigmoid"], value="softmax", label="activation")
    noise = mo.ui.slider(steps=[0.0, *data(0.01, 2.0)], value=0.5, label="noise Δ", show_value=True, debounce=True)
    alpha = mo.ui.slider(steps=data(0.05, 10.0), value=0.5, label="data α = N/D²", show_value=True, debounce=True)
    ridge = mo.ui.slider(steps=data(0.001, 1.0), value=0.1, label="ridge λ", show_value=True, debounce=True)
    alpha_lora = mo.ui.slider(steps=data(1.0, 100.0), value=4.0, label="data α′ = N′/D", show_value=True, debounce=True)
    rank = mo.ui.slider(1, 3, value=1, label="rank", show_value=True, debounce=True)
    reused = mo.ui.switch(label="on sequences of the pre-training")
    return activation, alpha, alpha_lora, noise, rank, reused, ridge, tokens


@app.cell
def _(activation, rank):
    log2_nodes, count = effort(activation.value, rank.value)
    ridge_lora = mo.ui.slider(1, count, value=count // 2, label="marked ridge λ′", debounce=True)
    return count, log2_nodes, ridge_lora


@app.cell
def _(activation, alpha, alpha_lora, noise, rank, reused, ridge, ridge_lora, tokens):
    mo.vstack(
        [
            mo.md("## Fine-tuning against its ridge"),
            mo.hstack(
                [
                    mo.vstack([mo.md("**layer**"), tokens, activation, noise]),
                    mo.vstack([mo.md("**pre-training**"), alpha, ridge]),
                    mo.vstack([mo.md("**fine-tuning**"), alpha_lora, rank, reused, ridge_lora]),
                ],
                justify="start",
                gap=2,
            ),
        ]
    )
    return


@app.cell
def _(activation, alpha, log2_nodes, noise, ridge, tokens):
    layer = {
        "tokens": tokens.value,
        "activation": activation.value,
        "delta": noise.value,
        "teacher": {"wishart": {"kappa0": 0.5}},
    }
    stage = pretrained(layer, alpha.value, ridge.value, log2_nodes)
    solved = stage.status in ("converged", "collapsed")
    return layer, solved, stage


@app.cell
def _(alpha_lora, count, layer, log2_nodes, rank, reused, solved, stage):
    mo.stop(not solved, mo.callout(f"The pre-training has no solution here: {stage.status}.", kind="warn"))
    training = {
        "alpha": alpha_lora.value,
        "lambda": 1.0,
        "rank": rank.value,
        "sequences": "reused" if reused.value else "fresh",
    }
    curves = finetuned(layer, stage, training, log2_nodes, count)
    return (curves,)


@app.cell
def _(curves, log2_nodes, ridge_lora, stage):
    chosen = ridge_lora.value - 1
    mo.vstack(
        [
            mo.Html(table(curves, chosen)),
            mo.Html(f'<div id="curves">{draw(curves, chosen)}</div>'),
            mo.md(
                f"Pre-training: test error {stage.errors.test:.4g}, alignment {stage.alignment:.4g}, {stage.status}, "
                f"{stage.validity.verdict}. Dotted and hatched: not to be used, for the reason that is written there. "
                f"Bands are two standard errors on both sides. To be quick, averages are over 2 times {2**log2_nodes} nodes and {len(curves.ridges)} ridges, and iterations end after {PATIENCE}; "
                "the default of the library is more accurate. The teacher is a Wishart matrix with κ₀ = 0.5, and the truth of fine-tuning has rank one."
            ),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
