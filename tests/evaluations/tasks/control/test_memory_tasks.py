"""What every memory task promises: solvable with memory, at chance without, and nothing but the cue gives it away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from evaluations.control.cues import cues_of
from evaluations.tasks import register_all
from evaluations.tasks.control import item_stream, popgym_recall, remembered_reacher, tmaze
from namm.errors import ConfigError


@dataclass(frozen=True)
class Case:
    """A task, what hides its cues from a state, and what chance is then."""

    env_id: str
    kwargs: dict[str, Any]
    make_expert: Callable[[], Any]
    cue: slice
    chance: float


def _without(state: np.ndarray, cue: slice) -> np.ndarray:
    hidden = state.copy()
    hidden[cue] = 0.0
    return hidden


def _maze(cues: int) -> Case:
    kwargs = {"corridor_steps": 60, "cues": cues}
    return Case(tmaze.ENV_ID, kwargs, tmaze.ScriptedExpert, slice(4, 5), 0.5)


def _game(name: str) -> Case:
    expert = lambda: popgym_recall.ScriptedExpert(name)  # noqa: E731
    return Case(popgym_recall.ENV_ID, {"game": name}, expert, slice(-4, None), 0.25)


def _stream(rule: str) -> Case:
    return Case(item_stream.ENV_ID, {"rule": rule, "steps": 60}, item_stream.ScriptedExpert, item_stream.VALUE, 0.25)


ANSWERED = (popgym_recall.ENV_ID, item_stream.ENV_ID)
"""Games: their return is 2 p - 1 where a share p of the answers is right, and other steps than the cues show cards."""
CASES = {
    "tmaze": _maze(1),
    "tmaze-3cues": _maze(3),
    "tmaze-5cues": _maze(5),
    "reacher": Case(
        remembered_reacher.ENV_ID,
        {"wait_steps": 50},
        remembered_reacher.ScriptedExpert,
        slice(8, 10),
        1 / 8,
    ),
    "repeat-previous": _game("repeat-previous"),
    "autoencode": _game("autoencode"),
    **{f"stream-{rule}": _stream(rule) for rule in item_stream.RULES},
}


@pytest.fixture(autouse=True)
def _registered():
    register_all()


def make(case: Case, **more: Any) -> gym.Env:
    return gym.make(case.env_id, disable_env_checker=True, **case.kwargs, **more)


def play(case: Case, seed: int, options: dict[str, Any] | None = None, noise: float = 0.0, blind: bool = False):
    """States, actions, rewards and the last info of an episode of the expert."""
    env, expert, random = make(case), case.make_expert(), np.random.default_rng(seed)
    state, info = env.reset(seed=seed, options=options)
    assert info["cue_steps"] == sorted(set(info["cue_steps"])), "known from the start, in order"
    assert cues_of(info), "evaluations/control/cues.py can follow them"
    states, actions, rewards, done = [state], [], [], False
    while not done:
        action = expert.act(_without(state, case.cue) if blind else state)
        action = np.clip(action + noise * random.normal(size=action.shape), -1, 1).astype(np.float32)
        state, reward, terminated, truncated, later = env.step(action)
        assert later["cue_steps"] == info["cue_steps"]
        states.append(state)
        actions.append(action)
        rewards.append(reward)
        done = terminated or truncated
    env.close()
    return np.stack(states), np.stack(actions), np.array(rewards), later


def asked(states: np.ndarray, info: dict[str, Any]) -> list[int]:
    """When each cue is needed; mazes cannot know it from the start."""
    if "asked_steps" in info:
        return info["asked_steps"]
    return [int(np.flatnonzero(states[:, 0] <= 0)[0])] * len(info["cue_steps"])


def score(case: Case, rewards: np.ndarray) -> float:
    """Share of right answers or 0 / 1; in the games the return is twice that less one."""
    return (rewards.sum() + 1) / 2 if case.env_id in ANSWERED else float(rewards.sum())


@pytest.mark.parametrize("name", CASES)
def test_gymnasiums_own_checker_accepts_it(name):
    check_env(make(CASES[name], render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("name", CASES)
def test_the_same_seed_gives_the_same_episode(name):
    first, second, other = (play(CASES[name], seed, noise=0.02)[0] for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert first.shape != other.shape or not np.array_equal(first, other)


@pytest.mark.parametrize("name", CASES)
def test_memory_reaches_the_ceiling(name):
    for seed in range(8):
        assert score(CASES[name], play(CASES[name], seed, noise=0.05)[2]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", CASES)
def test_without_the_cue_there_is_chance(name):
    """The same expert, blind to the cue channel only: what else it sees must not help it."""
    case = CASES[name]
    scores = [score(case, play(case, seed, blind=True)[2]) for seed in range(48)]
    spread = np.sqrt(case.chance * (1 - case.chance) / 48)
    assert np.mean(scores) <= case.chance + 3 * spread
    if case.env_id != remembered_reacher.ENV_ID:  # an arm that does not know where to go stays folded
        assert np.mean(scores) >= case.chance - 3 * spread


@pytest.mark.parametrize("name", CASES)
def test_the_cue_is_seen_at_the_steps_that_are_named_and_used_later(name):
    case = CASES[name]
    for seed in range(4):
        states, _, _, info = play(case, seed)
        seen = np.flatnonzero(np.abs(states[:, case.cue]).sum(1))
        if case.env_id in ANSWERED:
            assert set(info["cue_steps"]) <= set(seen.tolist())
        else:
            assert seen.tolist() == info["cue_steps"]
        held = np.subtract(asked(states, info), info["cue_steps"])
        assert ((held >= 0) & (held < len(states) - 1)).all()
        assert np.mean(held) > 10, "a window of 30 tokens must not be enough"


OPTIONS = {"tmaze": ("cue", (-1, 1)), "tmaze-3cues": ("cue", (-1, 1)), "reacher": ("goal", range(8))}


@pytest.mark.parametrize("name", OPTIONS)
def test_nothing_but_the_cue_tells_the_answer_before_it_is_needed(name):
    """Same seed, every answer: until the cue is used, all actions and all other numbers agree bit for bit."""
    case, (key, values) = CASES[name], OPTIONS[name]
    for seed in range(3):
        played = [play(case, seed, options={key: value}, noise=0.05) for value in values]
        states, actions, _, info = played[0]
        used = asked(states, info)[0]
        rest = np.delete(np.arange(states.shape[1]), case.cue)
        for other, other_actions, _, other_info in played[1:]:
            assert other_info["cue_steps"] == info["cue_steps"]
            assert np.array_equal(states[: used + 1, rest], other[: used + 1, rest])
            assert np.array_equal(actions[:used], other_actions[:used])
            assert not np.array_equal(actions[used], other_actions[used])
        assert len({tuple(row[0][info["cue_steps"][0], case.cue]) for row in played}) == len(values)


@pytest.mark.parametrize("cues", [3, 5])
def test_every_cue_of_a_maze_counts(cues):
    """The majority wins by one, so whoever loses a cue of it cannot tell; and no place among the cues is special."""
    minority = np.zeros(cues)
    for seed in range(60):
        states, _, _, info = play(_maze(cues), seed)
        values = states[info["cue_steps"], 4]
        assert values.sum() == info["cue"]
        minority += values != info["cue"]
    assert minority.sum() == 60 * (cues // 2)
    assert (minority > 60 * (cues // 2) / cues / 2).all()


def test_a_single_cue_makes_the_mazes_that_the_shipped_checkpoint_was_measured_on():
    """Values from before mazes had several cues."""
    env = gym.make(tmaze.ENV_ID, corridor_steps=150)
    found = []
    for seed in (20_000, 20_001, 20_002):
        state, info = env.reset(seed=seed)
        found.append((info["cue"], info["cue_step"], round(float(state[1]), 6)))
    assert found == [(-1, 52, -0.074364), (1, 35, 0.041391), (-1, 33, 0.007643)]


@pytest.mark.parametrize("cues", [0, 2, 4, 17])
def test_a_maze_refuses_votes_that_can_be_drawn_or_do_not_fit(cues):
    with pytest.raises(ConfigError, match="odd number of cues"):
        gym.make(tmaze.ENV_ID, corridor_steps=50, cues=cues)


def test_a_short_wait_and_an_unknown_game_are_refused():
    with pytest.raises(ConfigError, match="wait_steps of 40 or more"):
        gym.make(remembered_reacher.ENV_ID, wait_steps=39)
    with pytest.raises(ConfigError, match="repeat-previous"):
        gym.make(popgym_recall.ENV_ID, game="repeat-prevoius")


def test_the_goal_of_the_reacher_is_shown_among_decoys_that_mean_nothing():
    goals, decoys, starts = [], [], set()
    for seed in range(40):
        states, _, _, info = play(CASES["reacher"], seed)
        waiting = states[: info["go_step"], 10:12]
        places = {tuple(np.round(place, 5)) for place in waiting[np.abs(waiting).sum(1) > 0]}
        assert np.count_nonzero(np.abs(waiting).sum(1)) == 3 * remembered_reacher.DECOYS
        goal = tuple(np.round(states[info["cue_steps"][0], 8:10], 5))
        goals.append(goal)
        decoys.append(goal in places)
        starts.add(info["cue_steps"][0])
    assert len(set(goals)) == 8
    assert 0.2 < np.mean(decoys) < 0.7  # 1 - (7/8)^4 = 0.41: as often as drawing alone would have it
    assert len(starts) > 8
    assert max(starts) <= 20


def test_who_rests_at_one_goal_succeeds_in_one_of_eight_at_most():
    """No two goals are both within the tolerance of any place, and each can be reached."""
    places = np.stack([remembered_reacher.goal_place(index) for index in range(8)])
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)[np.triu_indices(8, 1)]
    assert apart.min() > 2 * remembered_reacher.TOLERANCE


def test_popgym_plays_the_game():
    """The same cards and rewards as POPGym's own environment gives for the same seed and answers."""
    import popgym  # noqa: F401

    for name, own_id in popgym_recall.GAMES.items():
        case, own = CASES[name], gym.make(own_id, disable_env_checker=True)
        env, random = make(case), np.random.default_rng(0)
        state, _ = env.reset(seed=5)
        observed, _ = own.reset(seed=5)
        done = False
        while not done:
            assert np.argmax(state[-4:]) == (observed[1] if isinstance(observed, tuple) else observed)
            action = random.normal(size=4).astype(np.float32)
            state, reward, done, _, _ = env.step(action)
            observed, own_reward, own_done, _, _ = own.step(int(action.argmax()))
            assert (reward, done) == (own_reward, own_done)
