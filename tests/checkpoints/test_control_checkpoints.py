"""The shipped Decision Transformers do what their cards say, and the trainer that made them resumes exactly."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints.recipes.decision_transformer import DTConfig, EpisodeSampler, WindowSampler, action_loss, train
from checkpoints.recipes.evicting_agent import EvictingAgent
from checkpoints.recipes.memory_demonstrations import demonstrate
from checkpoints.recipes.tmaze import RECIPE, junction_weights
from evaluations.control.shipped import LOCOMOTION
from evaluations.tasks import register_all
from evaluations.tasks.control import tmaze
from evaluations.tasks.control.d4rl import Episode, normalised_score, state_statistics
from modalities.control.agents import ControlModel, IncrementalAgent, WindowAgent, import_transformers
from modalities.control.rollout import make_env, rollout

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "control"
NAMES = sorted(folder.name for folder in SHIPPED.iterdir() if folder.is_dir())
MADE = [cell for cell in LOCOMOTION if cell in NAMES]


@pytest.fixture(autouse=True)
def _registered():
    register_all()


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_checkpoint_is_whole(name):
    """Stock loading works, the facts fit the environment, and the card's hash is that of the file beside it."""
    folder = SHIPPED / name
    control = ControlModel.load(folder)
    control.check_environment(make_env(control.facts.env_id, control.facts.env_kwargs))
    stock = import_transformers().DecisionTransformerModel.from_pretrained(folder)
    for key, value in control.model.state_dict().items():
        assert torch.equal(stock.state_dict()[key], value)
    text = (folder / "README.md").read_text("utf-8")
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in text
    recipe = re.search(r"checkpoints/recipes/\w+\.py", text).group(0)
    assert (SHIPPED.parents[1] / recipe).is_file()


def success(agent, corridor: int, episodes: int) -> float:
    played = rollout(agent, tmaze.ENV_ID, range(500, 500 + episodes), 1.0, {"corridor_steps": corridor})
    return float(np.mean([episode.success for episode in played.episodes]))


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
@pytest.mark.parametrize("corridor", [150, 300])
def test_the_t_maze_needs_the_cue(corridor):
    """In 24 episodes half are guessed rightly, give or take a fifth; one who knew the cue would miss none."""
    control = ControlModel.load(SHIPPED / "tmaze")
    assert success(IncrementalAgent(control), corridor, 24) >= 0.95
    for rule, budget in (("newest", 30), ("sink", 30), ("random", 12), ("random", 24)):
        assert 0.25 <= success(EvictingAgent(control, rule, budget), corridor, 24) <= 0.75, rule


def native_score(cell: str, episodes: int) -> float:
    """Mean normalised score in the native window, on resets that no card was measured on."""
    control = ControlModel.load(SHIPPED / cell)
    facts = control.facts
    played = rollout(WindowAgent(control), facts.env_id, range(episodes), facts.target_return)
    return float(np.mean([normalised_score(episode.total, facts.reference_scores) for episode in played.episodes]))


def stated_score(cell: str) -> tuple[float, float, float]:
    """(mean, low, high) of the native window in the card."""
    row = next(line for line in (SHIPPED / cell / "README.md").read_text("utf-8").splitlines() if "native" in line)
    return tuple(float(number) for number in re.findall(r"-?\d+\.\d+", row.split("|")[4]))


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
@pytest.mark.parametrize("cell", MADE)
def test_a_robot_scores_as_its_card_says_in_its_native_window(cell):
    """Other resets differ by a few points; where some end in a fall, by the card's interval, more are played."""
    _, low, high = stated_score(cell)
    assert low - 8 <= native_score(cell, 12 if high - low > 10 else 3) <= high + 8


def made_up(length: int, seed: int) -> Episode:
    random = np.random.default_rng(seed)
    states = random.normal(size=(length + 1, 4)).astype(np.float32)
    actions = np.tanh(states[:-1, :2])
    return Episode(states[:-1], actions, np.ones(length, np.float32), states[-1], True)


SMALL = DTConfig(5, layers=1, width=16, max_ep_len=32, updates=6, batch=4, warmup_updates=2, save_every=3, bf16=False)
EPISODES = [made_up(length, seed) for seed, length in enumerate((3, 8, 12, 20))]


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    """Dropout, batches, moments and learning rate all have to continue where they stopped."""
    sampler = WindowSampler(EPISODES, state_statistics(EPISODES), SMALL)
    whole, _ = train(sampler, 4, 2, SMALL, tmp_path / "whole.safetensors")

    class KilledError(Exception):
        pass

    def kill(model, done):
        raise KilledError

    with pytest.raises(KilledError):
        train(sampler, 4, 2, SMALL, tmp_path / "halves.safetensors", on_save=kill)
    halves, _ = train(sampler, 4, 2, SMALL, tmp_path / "halves.safetensors")
    for name, value in whole.state_dict().items():
        assert torch.equal(halves.state_dict()[name], value), name


def test_another_configuration_does_not_resume(tmp_path):
    sampler = WindowSampler(EPISODES, state_statistics(EPISODES), SMALL)
    train(sampler, 4, 2, SMALL, tmp_path / "state.safetensors")
    other = replace(SMALL, seed=1)
    fresh, _ = train(sampler, 4, 2, other, tmp_path / "state.safetensors")
    direct, _ = train(sampler, 4, 2, other, tmp_path / "other.safetensors")
    assert torch.equal(fresh.embed_state.weight, direct.embed_state.weight)


def test_windows_are_padded_on_the_left_and_end_with_the_episode():
    sampler = WindowSampler(EPISODES, state_statistics(EPISODES), replace(SMALL, batch=64))
    batch = sampler(np.random.default_rng(0), 0)
    assert batch.states.shape == (64, 5, 4)
    assert (batch.mask.diff(dim=1) >= 0).all()
    assert torch.equal(batch.mask.float(), batch.weights)
    assert (batch.actions[batch.mask == 0] == -10).all()
    padded = batch.mask[:, 0] == 0
    assert padded.any()
    # with a reward of 1 a step, what is still to come counts the steps to the end: a padded window reaches it
    assert torch.allclose(batch.returns_to_go[padded, -1, 0], torch.tensor(1 / 1000))


def test_padding_at_the_end_does_not_change_the_loss():
    """Whole episodes are batched without an attention mask: causality has to hide the padding."""
    config = replace(SMALL, context_steps=None, dropout=0.0, steps_per_batch=64)
    statistics = state_statistics(EPISODES)
    sampler = EpisodeSampler(EPISODES, statistics, config)
    model, _ = train(sampler, 4, 2, replace(config, updates=0), Path("unused"))

    class LongestFirst:
        def integers(self, low, high):
            return high - 1

    both = sampler(LongestFirst(), 0)
    assert both.states.shape[:2] == (3, 20)
    with torch.no_grad():
        together = action_loss(model, both, bf16=False)
        alone = []
        for episode in EPISODES[1:]:
            one = EpisodeSampler([episode], statistics, config)(LongestFirst(), 0)
            alone.append(action_loss(model, one, bf16=False) * len(episode.rewards))
    torch.testing.assert_close(together, sum(alone) / (8 + 12 + 20))


def test_a_curriculum_never_draws_longer_episodes():
    sampler = EpisodeSampler(EPISODES, state_statistics(EPISODES), SMALL, longest=lambda update: 8 + 4 * update)
    assert max(sampler(np.random.default_rng(seed), 0).states.shape[1] for seed in range(20)) == 8
    assert max(sampler(np.random.default_rng(seed), 9).states.shape[1] for seed in range(20)) == 20


def test_the_demonstrations_succeed_and_weigh_the_junction():
    short = replace(RECIPE.demonstrations, episodes=3, draw_arguments=lambda _: {"corridor_steps": 55})
    episodes = demonstrate(short)
    for episode in episodes:
        assert episode.total == 1.0
        assert episode.terminated
        weights = junction_weights(episode)
        assert set(weights.tolist()) == {1.0, 10.0}
        assert (np.diff(weights) >= 0).all()
