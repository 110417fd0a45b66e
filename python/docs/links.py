"""Checks that every link from one page of a site to another leads to a page that is there, and to a place on it.

python links.py FOLDER
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The places of a page that links can lead to, and its own links."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def has(self, fragment: str) -> bool:
        """Whether a browser finds the place. It looks for the fragment as it is written, and then for what it stands for."""
        return not {fragment, unquote(fragment)}.isdisjoint(self.places) or self.is_range(fragment)

    def is_range(self, fragment: str) -> bool:
        """Whether these are lines of a source file, ``59-62``, which a script of rustdoc marks."""
        first, _, last = fragment.partition("-")
        return first.isdigit() and last.isdigit() and {first, last} <= self.places

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (name, tag) == ("name", "a"):
                self.places.add(value or "")
            elif name in ("href", "src") and value:
                self.links.add(value)


def broken(site: Path) -> list[str]:
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        return [f"there are no pages in {site}"]
    found = []
    for path, page in pages.items():
        for link in sorted(page.links):
            scheme, host, file, _, fragment = urlsplit(link)
            # Rustdoc asks for lists of the implementations of a trait that it does not write if there are none.
            if scheme or host or "trait.impl" in Path(file).parts:
                continue
            target = (path.parent / unquote(file)).resolve() if file else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                found.append(f"{path.relative_to(site.resolve())}: there is no {link}")
            elif fragment and target in pages and not pages[target].has(fragment):
                found.append(f"{path.relative_to(site.resolve())}: there is no such place as {link}")
    print(f"{len(pages)} pages, {sum(len(page.links) for page in pages.values())} links, {len(found)} of them broken")
    return found


if __name__ == "__main__":
    problems = broken(Path(sys.argv[1]))
    print("\n".join(problems), file=sys.stderr)
    sys.exit(bool(problems))
