"""What is filmed afterwards is the episode that was measured, and what is said of a memory is what it held."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from evaluations.control.replay import animate, decode_actions, encode_actions
from evaluations.control.retention import AGE_EDGES, BatchObserver
from evaluations.rl import main
from evaluations.tasks import register_all
from namm.errors import DataError
from tests.evaluations.control.tiny_control import tiny_decision_transformer, tiny_namm

SMALL_TASKS = {"ContinuousTMaze-v0": {"corridor_steps": 50}, "RememberedReacher-v0": {"wait_steps": 40}}


@pytest.fixture(scope="module", params=["Hopper-v5", *SMALL_TASKS])
def row(request, tmp_path_factory) -> dict:
    register_all()
    folder = tmp_path_factory.mktemp("replay")
    own = {"env_kwargs": SMALL_TASKS.get(request.param), "target_return": 1.0}
    facts = {} if request.param == "Hopper-v5" else own
    checkpoint = tiny_decision_transformer(folder / "model", request.param, **facts)
    options = ["--namm", tiny_namm(folder / "namm"), "--out", folder / "rl", "--wandb", "disabled", "--no-video"]
    small = ["--policy", "window", "--budget", "9", "--episodes", "2", "--seeds", "0"]
    assert main([str(word) for word in ("--checkpoint", checkpoint, *options, *small)]) == 0
    return json.loads((folder / "rl" / "rows.jsonl").read_text())


def test_the_animation_is_the_recorded_episode(row, tmp_path):
    path = animate(row, row["identity"]["env_kwargs"], tmp_path / "a.gif", frames=10)
    with Image.open(path) as image:
        assert image.n_frames >= 5
        assert image.width == 640
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


def test_a_replay_that_returns_something_else_is_refused(row, tmp_path):
    episodes = [{**episode, "return": episode["return"] + 5.0} for episode in row["episodes"]]
    with pytest.raises(DataError, match="must return"):
        animate({**row, "episodes": episodes}, row["identity"]["env_kwargs"], tmp_path / "a.gif", frames=4)
    assert list(tmp_path.iterdir()) == []


def test_actions_survive_the_row_bit_by_bit():
    actions = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    assert (decode_actions(encode_actions(actions), 3) == actions).all()


class FakeHoldings:
    """Two layers, one head; holds the newest `n` tokens of each episode, `n` by layer."""

    def __init__(self, held: tuple[int, int]) -> None:
        self.held, self.seen, self.live = held, 2, 0

    def slots(self):
        return np.full(self.live, np.mean([min(n, self.seen) for n in self.held]))

    def positions(self):
        newest = [np.arange(max(0, self.seen - n), self.seen) for n in self.held]
        return [np.broadcast_to(p, (self.live, 1, len(p))) for p in newest]

    def bytes(self):
        return 100 * self.live, 10 * self.live


def test_seeds_of_one_batch_are_kept_apart_and_ages_are_counted_in_steps():
    holdings = FakeHoldings((3, 9))
    observer = BatchObserver(holdings, [1, 2], traced=1)
    lengths = [20, 40, 30]  # the first belongs to the first seed
    for step in range(40):
        live = [index for index, length in enumerate(lengths) if step < length]
        holdings.seen, holdings.live = 3 * step + 2, len(live)
        observer(step, live)
    first, second = observer.books
    assert first.metrics()["tokens_seen"] == 3 * 19 + 2
    assert second.metrics()["tokens_seen"] == np.mean([3 * 39 + 2, 3 * 29 + 2])
    assert second.metrics()["slots_peak"] == 6.0
    assert second.metrics()["bytes_mean"] == 100.0
    assert second.episode(1)["slots_mean"] == pytest.approx(
        np.mean([np.mean([min(3, 3 * t + 2), min(9, 3 * t + 2)]) for t in range(30)])
    )
    assert second.metrics()["evicted"] == np.mean([3 * 39 + 2 - 6, 3 * 29 + 2 - 6])
    layers = np.array(second.retention()["layers"], dtype=float)
    assert AGE_EDGES[:4] == (0, 1, 2, 4)
    assert layers[0][0] == 1.0  # three newest tokens: the present step (two read, one pending) and one before
    assert layers[1][1] == 1.0
    assert layers[0][2] == 0.0
    assert np.isnan(layers[0][-1])  # no token was ever that old
    told = second.retention()
    assert np.shape(told["heads"]) == (2, 1, len(AGE_EDGES) - 1)
    assert told["steps"] == [5.0 * sample for sample in range(8)]
    held, seen = np.zeros((2, 3)), np.zeros(3)  # at step 30, where the third episode has ended
    for position in range(92):
        seen[position % 3] += 1
        for layer, newest in enumerate(holdings.held):
            held[layer, position % 3] += position >= 92 - newest
    assert [told["kinds"][kind][6] for kind in "Rsa"] == pytest.approx(held.mean(0) / seen, abs=1e-3)
    assert told["ages"][6][:3] == [1.0, 0.5, 0.25]  # the three newest tokens, three before them, six before those
    trace = second.traced()
    assert first.traced() is None
    assert trace["steps"][-1] == 39
    assert trace["survival_steps"][-1] == 35
    assert trace["survival"][-1][35] == 100
    assert trace["survival"][-1][0] == 0
