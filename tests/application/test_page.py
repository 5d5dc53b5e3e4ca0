"""The page in a real browser: headless Chromium, driven over the W3C WebDriver protocol."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgeagent.core.errors import ContextLengthError
from edgeagent.core.events import Text
from tests.browser import ENTER, ESCAPE, Browser

if TYPE_CHECKING:
    from tests.application.conftest import Running, Scripted


def ask(browser: Browser, question: str) -> None:
    browser.type("#question", question + ENTER)


def is_answered(place: str = ".turn:last-child") -> str:
    return f"document.querySelector('{place} .answer[aria-busy=false]')"


def test_page_streams_an_answer_and_tells_what_happened(browser: Browser, base_url: str, tmp_path: Path) -> None:
    browser.appear("light", 1100, 900)
    browser.open(base_url)
    browser.wait_for("document.querySelector('#plate').innerText.includes('Raspberry Pi 5')")
    assert browser.text("#state-text") == "ready"
    ask(browser, "How often should I descale the pump?")
    browser.wait_for(is_answered())
    assert browser.text(".turn .question p") == "How often should I descale the pump?"
    assert "every three months" in browser.text(".turn .body")
    assert browser.text(".turn .body pre code") == "pumpctl status --since last-descale"
    assert browser.text(".turn .body strong") == "last done in May"
    assert "2025-08-14T09:12:00Z" in browser.text(".turn .steps")
    assert browser.run("return document.querySelector('.report').open") is False
    assert "first word 0.81 s" in browser.text(".report summary")
    browser.type(".report summary", ENTER)
    panel = browser.text(".report-body")
    for fact in (
        "instead of 2.61 s", "garage", "9.8 MB down", "0.74 s", "+9 %", "796 of", "manual.txt", "m-1f8c", "0.83",
        "The pump was descaled in May.", "after token 3", "a base model cannot chat", "chosen", "seed 7",
    ):  # fmt: skip
        assert fact in panel, fact
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert browser.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1100])
def test_page_fits_its_window_and_its_words_can_be_read(
    browser: Browser, base_url: str, scheme: str, width: int
) -> None:
    browser.appear(scheme, width, 800)
    browser.open(base_url)
    ask(browser, "Again?")
    browser.wait_for(is_answered())
    browser.run("document.querySelector('.report').open = true")
    assert browser.run("return document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert browser.run(CONTRAST) >= 4.5  # WCAG 2.2, 1.4.3 level AA


CONTRAST = """
const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
  .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
const ground = (node) => {
  for (let n = node; n; n = n.parentElement) {
    const color = getComputedStyle(n).backgroundColor;
    if (color !== "rgba(0, 0, 0, 0)") return color;
  }
};
const walk = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
let worst = 99;
while (walk.nextNode()) {
  const node = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || node.closest("[hidden]") || node.closest(".sr")) continue;
  const [a, b] = [light(getComputedStyle(node).color), light(ground(node))];
  worst = Math.min(worst, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
}
return worst;
"""


def test_page_shows_markup_of_a_model_as_text(browser: Browser, base_url: str, backend: "Scripted") -> None:
    backend.script = (Text("<img src=x onerror=alert(1)> **<b>bold</b>**"), backend.script[-1])
    browser.open(base_url)
    ask(browser, "<script>alert(2)</script>")
    browser.wait_for(is_answered())
    assert browser.text(".turn .question p") == "<script>alert(2)</script>"
    assert browser.text(".turn .body") == "<img src=x onerror=alert(1)> <b>bold</b>"
    assert browser.run("return document.querySelectorAll('main img, main b b, main script').length") == 0


def test_page_stops_an_answer_by_button_and_by_key(browser: Browser, base_url: str, backend: "Scripted") -> None:
    stops: list[Callable[[], None]] = [
        lambda: browser.click("#send"),
        lambda: browser.type("#question", ESCAPE),
    ]
    browser.open(base_url)
    for stop in stops:
        backend.script = (Text("half an answer"), 60.0)
        backend.cancelled.clear()
        ask(browser, "Go on")
        browser.wait_for("document.querySelector('.turn:last-child .body').innerText.includes('half')")
        assert browser.run("return document.querySelector('#send').getAttribute('aria-label')") == "Stop"
        stop()
        browser.wait_for(is_answered())
        assert backend.cancelled.wait(20)
        assert "Stopped" in browser.text(".turn:last-child .answer")
        assert browser.run("return document.querySelector('#send').getAttribute('aria-label')") == "Send"


def test_page_shows_an_error_and_asks_again(browser: Browser, base_url: str, backend: "Scripted") -> None:
    good = backend.script
    backend.script = (ContextLengthError("the prompt has 9120 tokens, the model reads 8192; shorten it"),)
    browser.open(base_url)
    ask(browser, "Read this")
    browser.wait_for("document.querySelector('.turn .error')")
    assert browser.text(".turn .error p") == "The prompt has 9120 tokens, the model reads 8192. Shorten it."
    backend.script = good
    browser.click(".turn .error button")
    browser.wait_for("document.querySelector('.turn .report')")
    assert browser.run("return document.querySelectorAll('.turn').length") == 1
    assert len(backend.asked[-1][0].messages) == 1


def test_page_forgets_the_talk_in_a_new_chat(browser: Browser, base_url: str, backend: "Scripted") -> None:
    browser.open(base_url)
    ask(browser, "First")
    browser.wait_for(is_answered())
    browser.click("#new-chat")
    assert "Ask this machine." in browser.text("main")
    ask(browser, "Second")
    browser.wait_for(is_answered())
    assert [m.content for m in backend.asked[-1][0].messages] == ["Second"]


def test_page_sends_the_talk_so_far_and_what_was_chosen(
    browser: Browser, base_url: str, backend: "Scripted", tmp_path: Path
) -> None:
    note = tmp_path / "note.txt"
    note.write_text("a long text")
    browser.open(base_url)
    ask(browser, "First")
    browser.wait_for(is_answered())
    browser.click("#options-toggle")
    browser.run("plan.value = 'local'; plan.dispatchEvent(new Event('change', {bubbles: true}))")
    assert browser.text("#options-summary") == "plan local"
    browser.click("#memory")
    browser.type("#file", str(note))
    browser.wait_for("document.querySelector('#files').innerText.includes('note.txt')")
    ask(browser, "Second")
    browser.wait_for(is_answered(".turn:nth-child(2)"))
    request, _ = backend.asked[-1]
    assert [m.role for m in request.messages] == ["user", "assistant", "user"]
    assert (request.edgeagent.plan, request.edgeagent.memory) == ("local", False)
    assert [(d.source, d.text) for d in request.documents] == [("note.txt", "a long text")]


def test_page_asks_for_a_token_and_goes_on(browser: Browser, guarded: "Running", backend: "Scripted") -> None:
    browser.open(guarded.base_url)
    browser.wait_for("document.querySelector('#gate').open")
    browser.type("#token", "token-of-bob-0123456789" + ENTER)
    browser.wait_for("document.querySelector('#plate').innerText.includes('Raspberry')")
    ask(browser, "Who am I?")
    browser.wait_for(is_answered())
    assert backend.asked[0][1] == "bob"


def test_page_lists_corrects_and_forgets_what_is_remembered_by_key(
    browser: Browser, base_url: str, backend: "Scripted"
) -> None:
    backend.remembered = {("owner", "m-7"): "The pump is <b>loud</b>.", ("owner", "m-8"): "Clara lives in Lisbon."}
    browser.open("about:blank")
    browser.complaints()  # of the tests before
    browser.open(base_url)
    browser.type("#memories-open", ENTER)
    browser.wait_for("document.querySelectorAll('#memory-list li').length == 2")
    assert browser.text("#memory-count") == "2 memories"
    assert browser.text("#memory-list li .remembered") == "The pump is <b>loud</b>."
    correct, forget = "#memory-list li:first-child button", "#memory-list li:first-child button + button"
    browser.type(correct, ENTER)
    browser.type("#memory-list textarea", "dropped" + ESCAPE)
    assert (
        browser.run("return document.querySelector('#memories').open && document.activeElement.innerText") == "Correct"
    )
    browser.type(correct, ENTER)
    browser.run("document.querySelector('#memory-list textarea').value = ''")
    browser.type("#memory-list textarea", "The pump is quiet.")
    browser.type("#memory-list button[type=submit]", ENTER)
    browser.wait_for("document.querySelector('#memory-list .remembered')?.innerText === 'The pump is quiet.'")
    assert backend.remembered["owner", "m-7"] == "The pump is quiet."
    browser.type(forget, ENTER)
    assert "cannot be undone" in browser.text("#memory-list li:first-child [role=group]")
    assert browser.run("return document.activeElement.innerText") == "Keep"
    browser.type("#memory-list .danger + button", ENTER)
    assert ("owner", "m-7") in backend.remembered
    assert browser.run("return document.activeElement.innerText") == "Forget"
    browser.type(forget, ENTER)
    browser.type("#memory-list .danger", ENTER)
    browser.wait_for("document.querySelectorAll('#memory-list li').length == 1")
    assert list(backend.remembered.values()) == ["Clara lives in Lisbon."]
    assert "Clara" in browser.run("return document.activeElement.closest('li').innerText")
    assert browser.text("#memory-count") == "Forgotten. 1 memory"
    browser.type("#memory-query", "pump" + ENTER)
    browser.wait_for("document.querySelector('#memory-count').innerText == 'Nothing found.'")
    browser.type("#memories-close", ENTER)
    assert browser.run("return document.activeElement.id") == "memories-open"
    assert browser.complaints() == []


def test_page_shows_why_a_memory_could_not_be_changed(browser: Browser, base_url: str, backend: "Scripted") -> None:
    backend.remembered = {("owner", "m-7"): "The pump is loud."}
    browser.open(base_url)
    browser.click("#memories-open")
    browser.wait_for("document.querySelector('#memory-list li')")
    backend.remembered.clear()  # forgotten elsewhere
    browser.click("#memory-list button + button")
    browser.click("#memory-list .danger")
    browser.wait_for("document.querySelector('#memory-list [role=alert]').innerText.includes(\"no memory 'm-7'\")")
    browser.click("#memory-list .danger + button")
    browser.click("#memory-list button")
    browser.type("#memory-list textarea", " Very.")
    browser.click("#memory-list button[type=submit]")
    browser.wait_for("document.querySelector('#memory-list [role=alert]').innerText.includes(\"no memory 'm-7'\")")
    assert browser.run("return document.querySelector('#memory-list textarea').value") == "The pump is loud. Very."


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_memories_fit_a_small_window_and_can_be_read(
    browser: Browser, base_url: str, backend: "Scripted", scheme: str
) -> None:
    backend.remembered = {("owner", f"m-{n}"): "word" * 60 for n in range(9)}
    browser.appear(scheme, 320, 600)
    browser.open(base_url)
    browser.click("#memories-open")
    browser.wait_for("document.querySelector('#memory-list li')")
    browser.click("#memory-list button + button")
    for place in ("#memories", "html"):
        node = f"document.querySelector('{place}')"
        assert browser.run(f"return {node}.scrollWidth - {node}.clientWidth") <= 0
    assert browser.run(CONTRAST.replace('"main"', '"#memories"')) >= 4.5
