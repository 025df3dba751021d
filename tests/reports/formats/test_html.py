"""The page without a browser: well formed, whole, nothing fetched."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.reports import fake
from vlmerge_cli.reports import build
from vlmerge_cli.reports.document import Document
from vlmerge_cli.reports.formats import drawing

VOID = {"meta", "link", "br", "img", "hr", "input"}
LINKS = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")


class Page(HTMLParser):
    """Checks nesting while it reads; collects what the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.styles: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._saw(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._saw(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without its start"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()} closes another"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles.append(data)
        elif self.open and self.open[-1] != "script":
            self.text.append(data)

    def _saw(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute twice in <{tag}>"
        self.tags.append((tag, found))
        self.ids.update(value for value in [found.get("id")] if value)
        self.links += [value for name in LINKS if (value := found.get(name)) is not None]
        self.styles += [value for value in [found.get("style")] if value]

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def document() -> Document:
    rows = fake.study(seeds=(1, 2))
    return build.document(rows + fake.costs(rows))


@pytest.fixture(scope="module")
def source(document: Document, tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("matplotlib")
    rows = fake.study(seeds=(1, 2))
    written = build.write(rows + fake.costs(rows), tmp_path_factory.mktemp("page"))
    return written.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_tags_are_nested_and_closed(page: Page) -> None:
    assert page.open == []


def test_nothing_is_fetched(page: Page, source: str) -> None:
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
    urls = re.findall(r"url\(([^)]*)\)", " ".join(page.styles) + source)
    assert [url for url in urls if not url.startswith("#")] == []
    assert "@import" not in source
    assert [attrs for attrs in page.named("script") if attrs] == []
    (policy,) = (a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique_and_references_meet_them(page: Page, source: str) -> None:
    assert [name for name, count in page.ids.items() if count > 1] == []
    wanted = {link[1:] for link in page.links if link.startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]*)\)", source))
    wanted |= {name for _, attrs in page.tags for name in (attrs.get("aria-labelledby") or "").split()}
    assert wanted - set(page.ids) == set()


def test_every_figure_and_table_is_there(page: Page, document: Document) -> None:
    assert {figure.name for figure in document.figures()} | {table.name for table in document.tables()} <= set(page.ids)
    titles = [attrs for attrs in page.named("svg") if attrs.get("role") == "img"]
    assert len(titles) == sum(len(figure.panels) for figure in document.figures())
    assert all(attrs.get("aria-labelledby") in page.ids for attrs in titles)


def test_the_papers_numbers_are_marked(page: Page, document: Document) -> None:
    marked = [attrs for tag, attrs in page.tags if tag == "td" and "paper" in (attrs.get("class") or "")]
    assert len(marked) == sum(
        len(table.rows) for table in document.tables() for column in table.columns if column.paper
    )


def test_headings_have_a_scope(page: Page) -> None:
    assert {attrs.get("scope") for attrs in page.named("th")} == {"col", "colgroup", "row"}


def test_every_verdict_has_its_numbers(page: Page, document: Document) -> None:
    text = " ".join(page.text)
    for verdict in document.verdicts():
        assert verdict.claim in text
        assert all(finding.numbers in text for finding in verdict.findings)


def test_names_from_records_are_text_not_tags(tmp_path: Path) -> None:
    from vlmerge_cli.records import Record

    bad = '<script>alert("x")</script>'
    rows = [Record("study", {"preset": bad}, {bad: bad}), Record("failure", {"node": bad}, {"error": bad})]
    written = build.write([*rows, *fake.study(seeds=(1,), widths=(64,), full=False)], tmp_path)
    text = written.page.read_text(encoding="utf-8")
    assert bad not in text
    assert len(Page(text).named("script")) == 1


def test_panels_take_the_pages_colours(source: str) -> None:
    drawn = [svg for svg in re.findall(r"<svg.*?</svg>", source, re.DOTALL) if 'role="img"' in svg]
    assert drawn
    for svg in drawn:
        assert not re.search(r"#[0-9a-f]{6}", svg), "a colour that does not follow light and dark"
        assert "currentColor" in svg


def test_without_matplotlib_the_page_says_what_is_not_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(drawing, "available", lambda: False)
    written = build.write(fake.study(seeds=(1,), full=False), tmp_path)
    assert not written.has_figures
    assert not (tmp_path / "figures").exists()
    page = Page(written.page.read_text(encoding="utf-8"))
    assert page.open == []
    assert " ".join(page.text).count("Not drawn: matplotlib is not installed.") == len(list(written.document.figures()))
    assert "figures/" not in (tmp_path / "report.md").read_text(encoding="utf-8")
