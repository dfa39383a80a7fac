"""The stream of items: what its rules promise about items that are asked for in the exam, and about all others."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from checkpoints.recipes.item_stream import RECIPE, answer_weights
from checkpoints.recipes.memory_demonstrations import demonstrate, sometimes_wrong
from evaluations.tasks import register_all
from evaluations.tasks.control.item_stream import (
    CODE,
    ENV_ID,
    EXAM,
    ITEM,
    LATEST,
    NAMED,
    RULES,
    VALUE,
    WANTS,
    ItemStream,
    right_answers,
)
from namm.errors import ConfigError

STEPS = 140


def stream(rule: str, seed: int, **options: int) -> tuple[np.ndarray, dict[str, list[int]]]:
    """All observations that need no action to be known, and the facts."""
    env = ItemStream(rule, STEPS)
    state, info = env.reset(seed=seed, options=options)
    states = [state] + [env.step(np.zeros(4, dtype=np.float32))[0] for _ in range(STEPS + EXAM - 1)]
    return np.stack(states), info


def namings(states: np.ndarray) -> dict[int, list[int]]:
    """Steps before the exam that name an item, by the step that shows it."""
    shown = {states[step, ITEM].tobytes(): step for step in np.flatnonzero(states[:, VALUE].any(1))}
    found: dict[int, list[int]] = {step: [] for step in shown.values()}
    for step in range(STEPS):
        if (item := shown.get(states[step, NAMED].tobytes())) is not None:
            found[item].append(step)
    return found


@pytest.mark.parametrize(("rule", "of_the_exam", "of_others"), [("unasked", 0, 1), ("twice", 2, 1), ("marked", 1, 0)])
def test_the_rule_tells_which_items_the_exam_asks_for(rule, of_the_exam, of_others):
    """By how often they were named, soon after they were shown; those shown last of all may not have been yet."""
    for seed in range(5):
        states, info = stream(rule, seed)
        for shown, named in namings(states).items():
            times = of_the_exam if shown in info["cue_steps"] else of_others
            if shown < STEPS - 20:
                assert len(named) == times
            assert all(0 < step - shown <= 20 for step in named)
        assert max(info["cue_steps"]) < LATEST * STEPS
        exam = sorted(info["asked_steps"])
        assert exam == list(range(STEPS, STEPS + EXAM))
        for shown, asked in zip(info["cue_steps"], info["asked_steps"], strict=True):
            assert np.array_equal(states[shown, ITEM], states[asked, NAMED])


@pytest.mark.parametrize("rule", RULES)
def test_items_of_the_exam_look_like_the_others(rule):
    """Their codes and values are drawn alike, as far as means over 60 streams can tell (four standard errors)."""
    kinds: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for seed in range(60):
        states, info = stream(rule, seed)
        for step in np.flatnonzero(states[:, VALUE].any(1)):
            kinds[bool(step in info["cue_steps"])].append(states[step, : CODE + 4])
    of_exam, others = (np.stack(kinds[kind]) for kind in (True, False))
    assert len(others) == 60 * (105 - EXAM)
    spread = np.sqrt(of_exam.var(0) / len(of_exam) + others.var(0) / len(others))
    assert (np.abs(of_exam.mean(0) - others.mean(0)) < 4 * spread).all()


def test_marks_hide_among_codes_of_no_item():
    """A code is named at every step, an answer is wanted in the exam only, and eight of the codes are items'."""
    states, _ = stream("marked", 0)
    assert (np.abs(states[:, NAMED]) == 1).all()
    assert np.flatnonzero(states[:, WANTS]).tolist() == list(range(STEPS, STEPS + EXAM))
    assert sum(len(named) for named in namings(states).values()) == EXAM


def test_codes_never_come_twice():
    states, _ = stream("twice", 3)
    shown = states[states[:, VALUE].any(1), ITEM]
    assert len(np.unique(shown, axis=0)) == len(shown) == 105


@pytest.mark.parametrize("rule", RULES)
def test_other_values_change_nothing_else(rule):
    """Same seed: what is shown and when is the same, and only the wanted answers turn."""
    states, info = stream(rule, 1)
    turned, turned_info = stream(rule, 1, turn=1)
    assert info == turned_info
    rest = np.delete(np.arange(states.shape[1]), VALUE)
    assert np.array_equal(states[:, rest], turned[:, rest])
    exam = sorted(info["asked_steps"])
    assert np.array_equal((right_answers(states)[exam] + 1) % 4, right_answers(turned)[exam])


def test_only_the_exam_pays():
    env = ItemStream("unasked", 40)
    state, _ = env.reset(seed=0)
    rewards, done = [], False
    while not done:
        state, reward, done, _, _ = env.step(np.zeros(4, dtype=np.float32))
        rewards.append(reward)
    assert not np.any(rewards[:40])
    assert (np.abs(rewards[40:]) == 1 / EXAM).all()
    assert not state.any()


def test_wrong_answers_are_shown_but_not_learned():
    """Also those before the exam, which no reward tells."""
    register_all()
    settings = RECIPE.demonstrations
    twice, wrong_ones = {"rule": "twice", "steps": 60}, sometimes_wrong(0.9)
    made = replace(settings, draw_arguments=lambda _: twice, disturb=wrong_ones, episodes=3)
    wrong = 0
    for episode in demonstrate(made):
        wanted, weights = right_answers(episode.observations), answer_weights(episode)
        right = episode.actions.argmax(1) == wanted
        assert np.array_equal(weights == 1, (wanted >= 0) & right)
        assert np.array_equal(weights == 0, (wanted >= 0) & ~right)
        wrong += int((weights[:60] == 0).sum())
    assert wrong > 0


def test_an_unknown_rule_and_a_short_stream_are_refused():
    register_all()
    with pytest.raises(ConfigError, match="Did you mean 'marked'"):
        gym.make(ENV_ID, rule="market")
    with pytest.raises(ConfigError, match="steps of 40 or more"):
        gym.make(ENV_ID, steps=39)
