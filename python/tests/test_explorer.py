"""The page with sliders, in a browser without a screen."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import lora_asymptotics as la

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,900"
)


@pytest.fixture(scope="module")
def explorer(root: Path) -> ModuleType:
    """The page as a module, whose functions have no browser."""
    spec = importlib.util.spec_from_file_location("explorer", root / "python/explorer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["explorer"] = module
    spec.loader.exec_module(module)
    return module


def layer(activation: str, tokens: int) -> dict[str, Any]:
    teacher = {"wishart": {"kappa0": 0.5}}
    return {"tokens": tokens, "activation": activation, "delta": 0.5, "teacher": teacher}


def test_the_curves_are_those_of_the_library(explorer: ModuleType) -> None:
    nodes, count = explorer.effort("softmax", 1)
    stage = explorer.pretrained(layer("softmax", 2), 0.5, 0.1, nodes)
    training = {"alpha": 8.0, "lambda": 1.0, "sequences": "reused"}
    curves = explorer.finetuned(layer("softmax", 2), stage, training, nodes, count)
    # The largest ridge has no point before it.
    alone = la.solve(
        model=layer("softmax", 2),
        pretrain={"alpha": 0.5, "lambda": 0.1},
        lora={**training, "lambda": curves.ridges[-1]},
        options={"log2_nodes": nodes, "scrambles": 2},
    ).lora
    assert len(curves.ridges) == count and np.all(np.diff(curves.ridges) > 0)
    assert curves.values["errors.test"][-1] == alone.errors.test and curves.frozen == alone.errors.frozen
    assert curves.values["errors.forgetting"][-1] == alone.errors.forgetting
    assert curves.words[-1] == alone.validity.verdict


#: Settings of the sliders, from the middle and from the slowest that random ones have found: activation, tokens, noise, data and
#: ridge of pre-training, data of fine-tuning, rank; and the seconds within which they stay, half of them for the scatter of a machine.
MOVES = [
    ("linear", 2, 0.5, 0.5, 0.1, 2.0, 1, 1.0),
    ("softmax", 4, 0.5, 0.5, 0.1, 2.0, 1, 1.5),
    ("sigmoid", 4, 0.5, 0.5, 0.1, 2.0, 2, 1.5),
    ("softmax_one", 4, 0.5, 0.5, 0.1, 2.0, 3, 1.5),
    ("softmax", 4, 0.08, 0.16, 0.0016, 32.0, 3, 1.5),
    ("softmax", 3, 2.0, 0.05, 1.0, 1.0, 2, 3.0),
]


@pytest.mark.parametrize(("activation", "tokens", "noise", "alpha", "ridge", "alpha_lora", "rank", "limit"), MOVES)
def test_a_move_is_quick(
    explorer: ModuleType, activation: str, tokens: int, noise: float, alpha: float, ridge: float, alpha_lora: float, rank: int, limit: float
) -> None:
    """In time of the processor, which other work on the machine changes little."""
    nodes, count = explorer.effort(activation, rank)
    moved = {**layer(activation, tokens), "delta": noise}
    begun = time.process_time()
    stage = explorer.pretrained(moved, alpha, ridge, nodes)
    curves = explorer.finetuned(moved, stage, {"alpha": alpha_lora, "lambda": 1.0, "rank": rank}, nodes, count)
    drawn = explorer.draw(curves, 0)
    spent = time.process_time() - begun
    print(f"{activation}, {tokens} tokens, rank {rank}: {spent:.2f} s")
    assert spent < limit and drawn.startswith("<svg")


def test_what_cannot_be_used_is_dotted_and_says_why(explorer: ModuleType) -> None:
    ridges = np.geomspace(0.1, 1.0, 6)
    columns = {name: np.linspace(0.2, 0.5, 6) for curve, (_, spread) in explorer.CURVES.items() for name in (curve, spread)}
    words = ["unreliable", "unreliable", "stalled", "good", "marginal", "good"]
    drawn = explorer.draw(explorer.Curves(ridges, columns, words, 1.0), 0)
    assert drawn.count("unreliable") == len(explorer.CURVES)

    def points(style: str) -> int:
        (path,) = drawn.split(f'id="errors.test{style}"')[1].split("</g>")[0].split("<path")[1:]
        return path.count("M ") + path.count("L ")

    # The pieces between the last three points are solid, and the three before them dotted.
    assert points("-") == 2 * 2 and points(":") == 3 * 2
    assert explorer.stretches(words) == [(0, 1, "unreliable"), (2, 2, "stalled"), (3, 3, "good"), (4, 4, "marginal"), (5, 5, "good")]


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    """The address of the page, served by the command of the README."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "marimo", "run", str(root / "python/explorer.py"), "--headless", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait(lambda: listens("127.0.0.1", port), 60)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def listens(host: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, port)) == 0


def wait(condition: Callable[[], Any], seconds: float) -> Any:
    """What the condition gives as soon as it holds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="not without Chromium")
def test_a_slider_moves_the_curves(address: str, root: Path, tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path}"]:
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        browser.get(address)

        def curve() -> str:
            script = "return document.querySelector('#curves svg [id=\"errors.test-\"]')?.outerHTML ?? ''"
            return str(browser.execute_script(script))

        def slider(label: str) -> Any:
            elements = browser.find_elements(By.CSS_SELECTOR, "marimo-slider")
            (found,) = [one for one in elements if label in str(one.get_attribute("data-label"))]
            return found.shadow_root.find_element(By.CSS_SELECTOR, "[role=slider]")

        before = wait(curve, 60)
        # The page solves on few nodes, whose gauges do not tell a good point from a marginal one.
        assert browser.find_element(By.ID, "verdict").text in ("good", "marginal")
        for label, key in (("noise", Keys.ARROW_LEFT), ("data α′", Keys.END), ("tokens", Keys.ARROW_RIGHT), ("rank", Keys.ARROW_RIGHT)):
            begun = time.monotonic()
            slider(label).send_keys(key)
            after = wait(lambda: (now := curve()) and now != before and now, 30)
            print(f"{label}: the curve moved after {time.monotonic() - begun:.2f} s")
            assert after != before
            before = after
        picture = root / "target/python/explorer.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        assert browser.save_screenshot(str(picture))
        fetched = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert fetched and all(name.startswith((address, "data:", "blob:")) for name in fetched)
    finally:
        browser.quit()
