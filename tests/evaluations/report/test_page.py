"""The report is one self-contained page, and its sentences follow from the numbers."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from evaluations.analysis.aggregates import aggregate
from evaluations.analysis.summary import summarise
from evaluations.control import memory_figures
from evaluations.control.page import write_page
from evaluations.report import figures
from evaluations.report.markdown import markdown as whole_markdown
from evaluations.report.page import Animation, Page
from evaluations.report.tables import markdown, rich_tables
from tests.evaluations.rows.made_up_rows import made_up_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    return [*made_up_rows(), *made_up_rows("tmaze-150", binary=True, episodes=16)]


class Outside(HTMLParser):
    """Collects everything a browser would fetch, and checks that tags are closed in order."""

    VOID = ("meta", "img", "br", "hr", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("script", "link", "iframe"):
            self.fetched.append(tag)
        for name, value in attrs:
            outside = name in ("src", "href", "xlink:href", "srcset", "data") and value
            if outside and not value.startswith(("data:", "#")):
                self.fetched.append(value)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(rows, tmp_path_factory) -> str:
    """A whole page with an animation."""
    folder = tmp_path_factory.mktemp("page")
    frames = [Image.new("RGB", (16, 16), (40 * i, 0, 0)) for i in range(3)]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:])
    animations = {"hopper": Animation(folder / "a.gif", "x")}
    content = Page("a <title> & more", "python evaluations/rl.py", {"interval": 48}, animations)
    return write_page(folder / "report.html", rows, content).read_text()


def test_the_page_fetches_nothing_and_is_well_formed(page):
    parser = Outside()
    parser.feed(page)
    assert parser.fetched == []
    assert parser.open == []
    assert not re.search(r"url\((?!#)|@import", page)
    assert "a &lt;title&gt; &amp; more" in page
    assert page.count("data:image/gif;base64") == 1
    assert "width=device-width" in page
    assert "prefers-color-scheme" in page
    assert page.count("Does the cue survive?") == 1  # the maze shows cues, Hopper none


def test_the_page_shows_every_policy_and_the_numbers_of_the_summary(page, rows):
    for target in summarise(rows):
        for policy in target.policies:
            assert policy.policy in page
            assert f"{policy.score.value:.1f} <small>[{policy.score.low:.1f}" in page


def test_pictures_take_the_ink_of_the_page_and_ids_do_not_clash(rows):
    target = summarise(rows)[0]
    first, second = (figures.svg(figures.scores(target), salt) for salt in ("a", "b"))
    assert "currentColor" in first
    assert figures.INK not in first
    ids = [set(re.findall(r'\bid="([^"]+)"', drawing)) for drawing in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    referenced = set(re.findall(r'(?:url\(|href=")#([^")]+)', first))
    assert referenced <= ids[0]


def test_pictures_can_be_drawn_of_what_little_there_is(rows):
    """A run of one policy without a trace, and ages that no token ever reached."""
    row = {**rows[0], "trace": None}
    layers = [[None if age > 3 else 0.5 for age in range(7)] for _ in range(2)]
    row["retention"] = {**row["retention"], "layers": layers, "heads": [layers]}
    target = summarise([row])[0]
    drawn = (figures.scores, memory_figures.kinds, figures.sizes, memory_figures.cue_survival)
    told = (
        memory_figures.heads_by_age,
        memory_figures.ages_over_time,
        memory_figures.kinds_over_time,
        memory_figures.cue_heads,
    )
    for figure in (*(draw(target) for draw in drawn), *(draw(target.policies) for draw in told)):
        assert figures.png(figure).startswith(b"\x89PNG")
    assert "<svg" in figures.svg(memory_figures.survival([row]), "x")


def test_score_of_a_summary_is_the_stratified_bootstrap_of_its_episodes(rows):
    policy = summarise(rows)[0].get("random")
    strata = [
        [e["score"] for e in row["episodes"]] for row in rows if row["target"] == "hopper" and row["policy"] == "random"
    ]
    assert policy.score == aggregate([np.array(strata)], seed=0)
    assert policy.score.value == pytest.approx(np.mean(strata))


def test_success_rates_get_wilsons_interval_and_normalised_scores_the_bootstrap(rows):
    maze = summarise(rows)[1].get("window")
    assert maze.score.value == pytest.approx(100 * maze.success.value)
    assert maze.score.low < maze.score.value


def test_tables_for_the_terminal_and_markdown_agree(rows, capsys):
    from rich.console import Console

    targets = summarise(rows)
    console = Console(width=120)
    for table in rich_tables(targets[0]):
        console.print(table)
    printed, written = capsys.readouterr().out, markdown(targets)
    best = targets[0].best_namm
    number = f"{best.score.value:.1f} [{best.score.low:.1f}, {best.score.high:.1f}]"
    assert number in printed
    assert number in written
    assert "…" not in printed


FEW = (
    ("namm:source",), ("window",), ("full", "native_window"), ("full",), ("namm:source", "namm:target"),
    ("namm:target", "full"), ("random", "window"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("played", "seeds", "episodes"),
    [*((played, 1, 1) for played in FEW), (("namm:target", "full"), 3, 4), (("random", "window"), 3, 4)],
)
def test_any_choice_of_policies_makes_a_page(played: tuple[str, ...], seeds: int, episodes: int, tmp_path) -> None:
    """A NAMM alone on several targets once ended the command with a traceback, after all its rows were played."""
    rows = [
        row
        for target in ("hopper", "walker")
        for row in made_up_rows(target, seeds=seeds, episodes=episodes)
        if row["policy"] in played
    ]
    page = write_page(tmp_path / "report.html", rows, Page("few")).read_text("utf-8")
    assert all(name in page for name in ("hopper", "walker"))
    assert whole_markdown(rows, summarise(rows))
