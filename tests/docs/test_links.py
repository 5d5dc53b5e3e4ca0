"""Links between pages, and from code and cards to headings of the design, lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "packaging/README.md"]
SOURCES = [*ROOT.glob("models/*.toml"), *ROOT.glob("hwprofiles/*.toml"), *(ROOT / "edgeagent").rglob("*.py")]
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)#?([^)\s]*)\)")
CITATION = re.compile(r"docs/design\.md, ([a-z]+(?: [a-z]+)*)")


def headings(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def anchor(heading: str) -> str:
    """As GitHub makes it: lower case, punctuation dropped, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links() -> Iterator[tuple[str, str, str]]:
    for page in sorted(PAGES):
        for path, fragment in LINK.findall(page.read_text(encoding="utf-8")):
            yield str(page.relative_to(ROOT)), path, fragment


@pytest.mark.parametrize(("page", "path", "fragment"), list(links()))
def test_link_leads_to_a_file_and_a_heading_in_it(page: str, path: str, fragment: str) -> None:
    target = (ROOT / page).parent / path if path else ROOT / page
    assert target.exists()
    assert not fragment or fragment in map(anchor, headings(target))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_cited_part_of_the_design_is_there(source: Path) -> None:
    known = [heading.lower() for heading in headings(ROOT / "docs/design.md")]
    cited = CITATION.findall(source.read_text(encoding="utf-8"))
    assert [words for words in cited if not any(heading.startswith(words) for heading in known)] == []


def test_cards_do_cite_the_design() -> None:
    assert sum(len(CITATION.findall(path.read_text(encoding="utf-8"))) for path in SOURCES) > 5
