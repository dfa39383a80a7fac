"""The shipped memory models do what their cards say: nearly all with their history, chance with the newest tokens."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import torch

from checkpoints.recipes import item_stream, popgym_recall, remembered_reacher, tmaze, tmaze_cues
from checkpoints.recipes.evicting_agent import EvictingAgent, KnowingAgent
from checkpoints.recipes.memory_demonstrations import demonstrate, sometimes_wrong
from checkpoints.recipes.memory_recipe import MemoryRecipe, score, steps_until_asked
from evaluations.control.shipped import SHIPPED, SHIPPED_FOLDER, SUITES
from evaluations.tasks import register_all
from modalities.control.agents import ControlModel, IncrementalAgent, import_transformers
from modalities.control.rollout import Agent, make_env, rollout

RECIPES = {
    recipe.folder: recipe
    for recipe in (
        *(tmaze.RECIPE, tmaze_cues.RECIPE, remembered_reacher.RECIPE),
        *(*popgym_recall.RECIPES.values(), item_stream.RECIPE),
    )
}
TARGETS = (*SUITES["memory"], *SUITES["memory-hard"])
FRESH_SEEDS = 900
"""First reset seed here: none of a card's episodes."""


@pytest.fixture(autouse=True)
def _registered():
    register_all()


def card_rows(recipe: MemoryRecipe) -> dict[str, list[tuple[float, float, float]]]:
    """Value and interval of every cell of the card's table of scores."""
    text = (SHIPPED_FOLDER / recipe.folder / "README.md").read_text("utf-8")
    rows = {}
    for line in text.splitlines():
        cells = re.findall(r"(-?\d+\.\d+) \[(-?\d+\.\d+), (-?\d+\.\d+)\]", line)
        if line.startswith("| ") and cells:
            rows[line.split("|")[1].strip()] = [tuple(float(number) for number in cell) for cell in cells]
    return rows


def recipe_default(recipe: MemoryRecipe) -> dict[str, object]:
    """The environment arguments in the checkpoint's own `control.json`."""
    return next(iter(recipe.settings.values()))


def measured(recipe: MemoryRecipe, agent: Agent, setting: int, episodes: int) -> float:
    kwargs = list(recipe.settings.values())[setting]
    seeds = range(FRESH_SEEDS, FRESH_SEEDS + episodes)
    return score(recipe, rollout(agent, recipe.demonstrations.env_id, seeds, 1.0, kwargs)).value


@pytest.mark.parametrize("folder", RECIPES)
def test_the_folder_is_whole(folder):
    """Stock loading works, the facts fit the environment, and the card tells hash, command and memory length."""
    path, recipe = SHIPPED_FOLDER / folder, RECIPES[folder]
    control = ControlModel.load(path)
    control.check_environment(make_env(control.facts.env_id, control.facts.env_kwargs))
    assert control.facts.context_steps is None
    assert control.facts.env_kwargs == next(iter(recipe.settings.values()))
    assert control.facts.reference_scores == recipe.reference_scores
    stock = import_transformers().DecisionTransformerModel.from_pretrained(path)
    for key, value in control.model.state_dict().items():
        assert torch.equal(stock.state_dict()[key], value)
    text = (path / "README.md").read_text("utf-8")
    assert hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest() in text
    assert recipe.command in text


@pytest.mark.parametrize("folder", RECIPES)
def test_the_card_shows_a_task_that_needs_memory(folder):
    """At the settings that the suite plays; elsewhere a card may tell of a model's limits."""
    rows, recipe = card_rows(RECIPES[folder]), RECIPES[folder]
    targets = [SHIPPED[name] for name in TARGETS if SHIPPED[name].folder == folder]
    played = [{**recipe_default(recipe), **target.env_kwargs} for target in targets]
    full = zip(recipe.settings.values(), rows["full history"], strict=True)
    assert min(value for kwargs, (value, _, _) in full if kwargs in played) >= 0.95
    assert all(value <= recipe.chance + 0.2 for value, _, _ in rows["newest 30"])
    assert {len(row) for row in rows.values()} == {len(recipe.settings)}


@pytest.mark.parametrize(
    "folder", [pytest.param(each, marks=() if each == "tmaze" else pytest.mark.slow) for each in RECIPES]
)
def test_the_model_is_held_to_its_card(folder):
    """On episodes that the card did not see; the allowance is four standard errors of so few of them."""
    recipe, rows = RECIPES[folder], card_rows(RECIPES[folder])
    control = ControlModel.load(SHIPPED_FOLDER / folder)
    episodes = 4 if recipe.answers else 16
    full = measured(recipe, IncrementalAgent(control), 0, episodes)
    assert full >= rows["full history"][0][1] - 0.1
    forgetful = measured(recipe, EvictingAgent(control, "newest", 30), 0, episodes)
    assert forgetful <= rows["newest 30"][0][0] + 4 * np.sqrt(0.25 / (50 * 4 if recipe.answers else episodes))


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
@pytest.mark.parametrize("folder", RECIPES)
def test_the_model_is_held_to_its_card_at_every_setting(folder):
    recipe, rows = RECIPES[folder], card_rows(RECIPES[folder])
    control = ControlModel.load(SHIPPED_FOLDER / folder)
    for setting in range(len(recipe.settings)):
        episodes = 10 if recipe.answers else 24
        full = measured(recipe, IncrementalAgent(control), setting, episodes)
        told = rows["full history"][setting][0]
        assert full >= told - 4 * np.sqrt(max(told * (1 - told), 0.02) / episodes)
        for rule in ("newest", "sink"):
            forgetful = measured(recipe, EvictingAgent(control, rule, 30), setting, episodes)
            assert forgetful <= rows["newest 30"][setting][0] + 0.3


def test_every_target_of_the_suites_is_a_setting_that_its_model_was_trained_for():
    folders = {SHIPPED[name].folder for name in TARGETS}
    assert folders == set(RECIPES)
    for name in TARGETS:
        shipped = SHIPPED[name]
        assert shipped.recipe == RECIPES[shipped.folder].command
        kwargs = {**recipe_default(RECIPES[shipped.folder]), **shipped.env_kwargs}
        assert kwargs in RECIPES[shipped.folder].settings.values(), f"{name} stands in no card"


@pytest.mark.slow
@pytest.mark.parametrize("setting", range(len(item_stream.RECIPE.settings)))
def test_twelve_slots_are_enough_for_the_items_of_the_exam(setting):
    """Who knows which items will be asked for needs their states alone: eight, and the newest tokens."""
    recipe = item_stream.RECIPE
    agent = KnowingAgent(ControlModel.load(SHIPPED_FOLDER / recipe.folder), budget=12)
    kwargs, seeds = list(recipe.settings.values())[setting], range(FRESH_SEEDS, FRESH_SEEDS + 6)
    played = rollout(agent, recipe.demonstrations.env_id, seeds, 1.0, kwargs, on_start=agent.told, lanes=1)
    assert agent.held.shape[1] < 12 + 48
    assert score(recipe, played).value >= 0.9


def test_wrong_answers_are_shown_but_not_learned():
    """Episodes with mistakes, whose steps have no weight; and never so many that nothing is right."""
    recipe = popgym_recall.RECIPES["autoencode"]
    settings = recipe.demonstrations
    few = type(settings)(settings.env_id, settings.draw_arguments, settings.make_expert, sometimes_wrong(0.5), 4)
    wrong = 0
    for episode in demonstrate(few):
        weights = recipe.step_weights(episode)
        assert (weights[episode.rewards < 0] == 0).all()
        assert (weights[episode.rewards > 0] == 1).all()
        assert (weights[:51] == np.float32(0.1)).all(), "nothing is asked while cards are dealt"
        wrong += (episode.rewards < 0).sum()
    assert 0 < wrong < 4 * 52 * 0.6


def test_memory_length_is_counted_from_the_cue_to_the_question():
    assert steps_until_asked(np.zeros((9, 1)), {"cue_steps": [2, 3], "asked_steps": [8, 8]}) == [6, 5]
    states = np.ones((9, 6))
    states[7:, 0] = 0.0
    assert tmaze.RECIPE.memory_steps(states, {"cue_steps": [1, 4]}) == [6, 3]
