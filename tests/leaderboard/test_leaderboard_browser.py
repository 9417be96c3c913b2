"""index.html in a real browser: sorting, stepping, and no sideways scrolling of the page on a phone."""

import json
import re
import shutil
import subprocess
from html import escape, unescape

import pytest
from board_fakes import fake_section
from test_leaderboard_report import one_figure, two_overlays

from samzoo.leaderboard import report
from samzoo.leaderboard.board import Board

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed"),
    pytest.mark.timeout(180),
]

PROBE = """
const found = { errors: [] };
addEventListener("error", (event) => found.errors.push(event.message));
addEventListener("load", () => {
  const table = document.querySelector("#s1-automatic ~ .scroll table");
  const header = (name) => [...table.tHead.rows[0].cells].find((c) => c.textContent.startsWith(name));
  const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
  const sorted = (name) => {
    header(name).querySelector("button").click();
    return [header(name).getAttribute("aria-sort"), ...names()];
  };
  found.before = names();
  found.entry = sorted("entry");
  found.dice = sorted("Dice [");
  found.diceAgain = sorted("Dice [");
  found.entrySort = header("entry").getAttribute("aria-sort");
  const controls = document.querySelector(".controls");
  const [back, next] = controls.querySelectorAll("button");
  const shown = () => [controls.querySelector("[aria-live]").textContent, back.disabled, next.disabled,
    controls.querySelector("input").value, [...controls.nextSibling.children].map((f) => f.hidden)];
  found.first = shown();
  next.click();
  next.click();
  found.last = shown();
  document.querySelectorAll("details").forEach((d) => { d.open = true; });
  found.width = innerWidth;
  found.overflow = document.documentElement.scrollWidth - innerWidth;
  dispatchEvent(new Event("beforeprint"));
  document.body.dataset.found = JSON.stringify(found);
});
"""

PHONE = """<iframe id="phone" width="390" height="844" style="border: 0" srcdoc="PAGE"></iframe><script>
addEventListener("load", () => { document.body.dataset.found = phone.contentDocument.body.dataset.found; });
</script>"""
"""The narrowest window that a browser gives is wider than a phone, a frame is not."""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page with a probe, which its own policy would not let run."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "save_figures", one_figure)
        patch.setattr(report, "save_overlays", two_overlays)
        report.write_report(folder, Board((fake_section(),)))
    text = (folder / "index.html").read_text()
    (folder / "blocked.html").write_text(text.replace("</footer>", f"</footer><script>{PROBE}</script>"))
    open_text = text.replace('http-equiv="Content-Security-Policy"', 'name="policy"')
    probed = open_text.replace("</footer>", f"</footer><script>{PROBE}</script>")
    (folder / "phone.html").write_text(PHONE.replace("PAGE", escape(probed)))
    return folder


def dumped(page, name, tmp_path):
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", (page / name).as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=True).stdout


def found_by_probe(dom):
    match = re.search(r'data-found="([^"]*)"', dom)
    assert match, "the probe did not run to its end"
    return json.loads(unescape(match[1]))


def test_sorting_and_stepping_on_a_phone(page, tmp_path):
    found = found_by_probe(dumped(page, "phone.html", tmp_path))
    assert found["errors"] == [] and found["width"] == 390 and found["overflow"] <= 0
    assert found["before"] == ["unet", "masksam_fixed", "masksam", "promise"]
    assert found["entry"] == ["ascending", "masksam", "masksam_fixed", "promise", "unet"]
    assert found["dice"] == ["descending", *found["before"]], "numbers begin with the highest"
    assert found["diceAgain"] == ["ascending", *reversed(found["before"])] and found["entrySort"] is None
    assert found["first"] == ["1 of 3: clicks_3d, step 0", True, False, "1", [False, True, True]]
    assert found["last"] == ["3 of 3: clicks_3d, step 2", False, True, "3", [True, True, False]]


def test_its_policy_lets_its_own_script_run_and_no_other(page, tmp_path):
    dom = dumped(page, "blocked.html", tmp_path)
    assert 'data-found="' not in dom and '<div class="controls"' in dom
    assert dom.count("<button") > 20
