"""The examples of the documentation are executed."""

from __future__ import annotations

import doctest
import importlib
import re
from importlib import metadata
from pathlib import Path

import pytest

import lora_asymptotics as la

MODULES = ["", ".activation", ".fixed_points", ".solving"]


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"lora_asymptotics{module}"))
    assert found.attempted > 0 and found.failed == 0


def test_the_licence_is_installed(root: Path) -> None:
    (licence,) = [file for file in metadata.files("lora_asymptotics") or () if file.name == "LICENSE"]
    assert licence.read_text(encoding="utf-8") == (root / "LICENSE").read_text(encoding="utf-8")


def snippets(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "python/README.md", "docs/cluster.md"])
def test_examples_of_pages(
    root: Path, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = snippets(root / page)
    assert found
    monkeypatch.chdir(tmp_path)
    for snippet in found:
        exec(compile(snippet, page, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


def test_the_first_screen_of_the_readme_is_short(root: Path) -> None:
    top = (root / "README.md").read_text(encoding="utf-8").split("## Use it")[0]
    examples = re.findall(r"^```(\w+)\n(.*?)^```", top, re.MULTILINE | re.DOTALL)
    assert {"rust", "python", "sh"} <= {language for language, _ in examples}
    assert all(len(code.splitlines()) <= 8 for _, code in examples)


def test_the_first_example_prints_what_the_readme_says(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = root / "README.md"
    exec(compile(snippets(page)[0], str(page), "exec"), {})
    assert f"Both print `{capsys.readouterr().out.strip()}`" in page.read_text(encoding="utf-8")


def test_everything_public_is_documented() -> None:
    for module in (la, la.errors, la.simulate, la.thresholds):
        for name in getattr(module, "__all__", [n for n in dir(module) if n[0].isupper()]):
            item = getattr(module, name)
            assert isinstance(item, (str, type(la))) or (item.__doc__ and not item.__doc__.startswith("dict(")), name


def test_the_version_is_that_of_the_library(root: Path) -> None:
    manifest = (root / "Cargo.toml").read_text(encoding="utf-8")
    workspace = manifest.split("[workspace.package]")[1].split("[")[0]
    assert f'version = "{la.__version__}"' in workspace
