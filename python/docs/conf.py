"""The documentation site, which `python/site` builds from a copy of the pages of the repository."""

import inspect

from sphinx.util.inspect import stringify_signature

import lora_asymptotics

project = "lora-asymptotics"
author = "the authors of lora-asymptotics"
copyright = f"2026, {author}"
release = version = lora_asymptotics.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    # MathJax is part of the site, so that formulas are shown without a network.
    "sphinx-mathjax-offline",
]

# Pages are those of the repository, which GitHub shows, too.
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
# Notebooks are shown with the output that is committed with them, and `python/check` tests that output.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"lora-asymptotics {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
# The pages of `cargo doc`.
html_extra_path = ["extra"]


def as_written(_app, what, _name, item, _options, signature, returned):
    """The signature with the names of its types, which autodoc would replace by what they stand for."""
    if signature is None or not callable(item):
        return None
    written = inspect.signature(item)
    parameters = list(written.parameters.values())
    if what == "method" and parameters and parameters[0].name in ("self", "cls"):
        written = written.replace(parameters=parameters[1:])
    if what in ("class", "exception"):
        returned = None
    elif isinstance(written.return_annotation, str):
        returned = written.return_annotation
    return stringify_signature(written, show_return_annotation=False), returned


def setup(app):
    app.connect("autodoc-process-signature", as_written)
