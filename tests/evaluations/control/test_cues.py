"""What a row says about a cue is what a look at every single step would have found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluations.analysis.survival import held_when_asked
from evaluations.control import experiment
from evaluations.control.cues import MOST_CUES, Cue, CueWatch, cues_of
from evaluations.control.retention import BatchObserver
from evaluations.rl import main
from namm.errors import DataError
from tests.evaluations.control.tiny_control import tiny_decision_transformer, tiny_namm


def test_cues_as_environments_tell_them():
    assert cues_of({"success": False}) == ()
    assert cues_of({"cue_step": 7}) == (Cue((7,)),)
    assert cues_of({"cue_steps": [3, 9], "cue_step": 3}) == (Cue((3,)), Cue((9,)))
    shown_thrice = {"cue_steps": [4, 5, 6], "cue_repeats": 3, "asked_steps": [50, 50, 50]}
    assert cues_of(shown_thrice) == (Cue((4, 5, 6), asked=50),)
    many = cues_of({"cue_steps": range(52), "asked_steps": range(103, 51, -1)})
    assert len(many) == MOST_CUES
    assert (many[0], many[-1]) == (Cue((0,), 103), Cue((51,), 52))


@pytest.mark.parametrize("info", [{"cue_steps": [1, 2], "cue_repeats": 3}, {"cue_steps": [1, 2], "asked_steps": [9]}])
def test_an_environment_that_contradicts_itself_is_refused(info):
    with pytest.raises(DataError, match="cue_repeats"):
        cues_of(info)


class Script:
    """Holdings that follow a script: a set of evicted (layer, head, position) for every step of the one episode."""

    def __init__(self, layers: int, heads: int, evictions: dict[int, set[tuple[int, int, int]]]) -> None:
        self.shape, self.evictions, self.step, self.gone = (layers, heads), evictions, 0, set()
        self.looks = 0

    def at(self, step: int) -> None:
        self.step = step
        self.gone |= self.evictions.get(step, set())

    def held(self, layer: int, head: int) -> list[int]:
        return [p for p in range(3 * self.step + 2) if (layer, head, p) not in self.gone]

    def slots(self):
        layers, heads = self.shape
        return np.array([np.mean([len(self.held(i, j)) for i in range(layers) for j in range(heads)])])

    def positions(self):
        self.looks += 1
        layers, heads = self.shape
        width = 3 * self.step + 2
        rows = [[self.held(i, j) for j in range(heads)] for i in range(layers)]
        return [np.array([[(p + [-1] * width)[:width] for p in layer]]) for layer in rows]

    def bytes(self):
        return None


evicted = st.dictionaries(
    st.integers(0, 19), st.sets(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 61)), max_size=12)
)


@given(evicted, st.lists(st.integers(0, 19), min_size=1, max_size=3, unique=True))
def test_the_step_of_a_loss_is_that_of_a_search_at_every_step(evictions, cue_steps):
    script = {step: {token for token in tokens if token[2] < 3 * step + 2} for step, tokens in evictions.items()}
    holdings = Script(2, 2, script)
    observer = BatchObserver(holdings, [1], traced=None)
    observer.start([{"cue_steps": cue_steps}])
    for step in range(20):
        holdings.at(step)
        observer(step, [0])
    (episode,) = observer.cue(0, [20])["episodes"]
    for number, cue in enumerate(cue_steps):
        first = {}  # (kind, layer, head) -> steps after the cue
        for kind, offset in zip("Rsa", range(3), strict=True):
            for layer, head in np.ndindex(2, 2):
                gone = [step for step, tokens in script.items() if (layer, head, 3 * cue + offset) in tokens]
                first[kind, layer, head] = min(gone) - cue if gone else None
        assert episode["lost"][number] == [first["s", i, j] for i, j in np.ndindex(2, 2)]
        for kind in "Ra":
            several = [first[kind, i, j] for i, j in np.ndindex(2, 2)]
            assert episode[f"lost_{kind}"][number] == (None if None in several else max(several))


def test_positions_are_read_after_evictions_only():
    holdings = Script(1, 1, {8: {(0, 0, 1)}})
    watch = CueWatch([cues_of({"cue_step": 0})])
    looked = []
    for step in range(12):
        holdings.at(step)
        if watch.must_look([0], 3 * step + 2 - holdings.slots()):
            watch.look(step, [0], holdings.positions())
            looked.append(step)
    assert looked == [0, 8]  # the first look learns the number of layers and heads
    assert watch.episode(0, 12) == {"shown": [0], "asked": [11], "lost": [[8]], "lost_R": [None], "lost_a": [None]}


def test_a_cue_shown_several_times_is_held_while_one_of_its_tokens_is():
    watch = CueWatch([cues_of({"cue_steps": [2, 3, 4], "cue_repeats": 3, "asked_steps": [9, 9, 9]})])
    every = np.arange(32)
    watch.look(5, [0], [every[:17][None, None]])
    watch.look(6, [0], [np.setdiff1d(every[:20], [7, 10])[None, None]])
    assert watch.episode(0, 11)["lost"] == [[None]]
    watch.look(8, [0], [np.setdiff1d(every[:26], [7, 10, 13])[None, None]])
    assert watch.episode(0, 11)["lost"] == [[4]]
    assert watch.episode(0, 4) is None  # ended before the cue was complete


@pytest.mark.parametrize(("lost", "held"), [(None, True), (31, True), (30, False), (5, False)])
def test_a_cue_counts_as_held_if_it_was_not_gone_before_the_action_that_needs_it(lost, held):
    """An update comes before the tokens of its step are attended, so what is gone at `asked` was not seen there."""
    episode = {"shown": [10], "asked": [40], "lost": [[lost, 3]]}
    assert held_when_asked(episode).tolist() == [[held, False]]


@pytest.mark.slow
def test_rows_of_a_real_memory_agree_with_a_look_at_every_step(tmp_path, monkeypatch):
    """A window forgets the cue of the maze after a known time; whatever a NAMM does, each step is looked at here."""
    seen: dict[str, list] = {}
    original = BatchObserver.__call__

    def spy(self, step, live):
        original(self, step, live)
        position = [3 * several[0].steps[0] + 1 for several in self.cues.cues]
        for row, episode in enumerate(live):
            found = [(layer[row] == position[episode]).any(axis=-1).tolist() for layer in self.holdings.positions()]
            seen.setdefault(self.holdings.memory.policy.name, []).append(
                (step, episode, position[episode], np.ravel(found).tolist())
            )

    monkeypatch.setattr(experiment, "write_page", lambda path, *rest: path)
    monkeypatch.setattr(BatchObserver, "__call__", spy)
    maze = {"env_kwargs": {"corridor_steps": 50}, "context_steps": None, "target_return": 1.0}
    checkpoint = tiny_decision_transformer(tmp_path / "maze", "ContinuousTMaze-v0", **maze)
    options = ["--namm", tiny_namm(tmp_path / "namm"), "--out", tmp_path / "rl", "--wandb", "disabled", "--no-video"]
    small = ["--policy", "full", "namm:sequence", "window", "--episodes", "3", "--seeds", "0"]
    assert main([str(word) for word in ("--checkpoint", checkpoint, *options, *small)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rl" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    for row in rows:
        for index, episode in enumerate(row["cue"]["episodes"]):
            cue = episode["shown"][0]
            looks = [
                (step, held)
                for step, number, _, held in seen[row["policy"].partition(":")[0]]
                if number == index and step >= cue
            ]
            for head, lost in enumerate(episode["lost"][0]):
                gone = [step - cue for step, held in looks if not held[head]]
                assert lost == (gone[0] if gone else None)
            assert row["episodes"][index]["cue_held"] == float(any(held_when_asked(episode)[0]))
    by_policy = {row["policy"]: row for row in rows}
    assert by_policy["full"]["metrics"]["cue_held"] == 1.0
    assert by_policy["full"]["metrics"]["cue_heads"] == 1.0
    assert by_policy["window"]["metrics"]["cue_held"] == 0.0
    lost = [episode["lost"][0] for episode in by_policy["window"]["cue"]["episodes"]]
    assert all(len(set(heads)) == 1 for heads in lost)  # a window forgets everywhere at once
