"""Decision Transformers as agents: acting step by step is exact, dropping rows harms nobody, bad files are refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluations.tasks.control import tmaze
from modalities import attach
from modalities.control.agents import (
    ControlFacts,
    ControlModel,
    IncrementalAgent,
    StateStatistics,
    WindowAgent,
    import_transformers,
)
from modalities.control.encoder import StepEncoder
from modalities.control.rollout import make_env, rollout
from namm import NAMM
from namm.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from namm.policies import make_policy

STATE, ACTION = 11, 3
FACTS = ControlFacts("Hopper-v5", (0.5,) * STATE, (2.0,) * STATE, context_steps=20, target_return=3000.0)


@pytest.fixture(scope="module")
def control() -> ControlModel:
    """A small Decision Transformer with weights large enough that context matters."""
    transformers = import_transformers()
    torch.manual_seed(0)
    config = transformers.DecisionTransformerConfig(
        state_dim=STATE, act_dim=ACTION, hidden_size=32, n_layer=3, n_head=2, max_ep_len=64, initializer_range=0.15
    )
    return ControlModel(transformers.DecisionTransformerModel(config), FACTS)


@pytest.fixture
def folder(control, tmp_path):
    control.model.save_pretrained(tmp_path)
    (tmp_path / "control.json").write_text(FACTS.to_json())
    return tmp_path


def play(agent, steps: int, batch: int = 3, seed: int = 1) -> dict[str, torch.Tensor]:
    """Feeds made-up states and returns; gives back what was fed and what was answered, stacked over steps."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(batch, steps, STATE, generator=generator)
    to_go = 3000.0 - 100.0 * torch.rand(batch, steps, generator=generator).cumsum(1)
    agent.reset(batch)
    answers = [agent.act(states[:, t], to_go[:, t], torch.full((batch,), t)) for t in range(steps)]
    return {"states": states, "to_go": to_go, "actions": torch.stack(answers, 1)}


def reference(control: ControlModel, played: dict[str, torch.Tensor], first: int, last: int) -> torch.Tensor:
    """The stock model's own forward over steps first..last; the action of the last one."""
    actions = played["actions"][:, first : last + 1].clone()
    actions[:, -1] = 0.0
    with torch.no_grad():
        return control.model(
            states=(played["states"][:, first : last + 1] - 0.5) / 2.0,
            actions=actions,
            returns_to_go=played["to_go"][:, first : last + 1, None] / 1000.0,
            timesteps=torch.arange(first, last + 1).expand(len(actions), -1),
            attention_mask=torch.ones(actions.shape[:2], dtype=torch.long),
        ).action_preds[:, -1]


def test_incremental_agent_equals_re_encoding_the_whole_history(control):
    """A wrong position id, a missing wpe[0] or the time of the wrong step in the action token would show here."""
    played = play(IncrementalAgent(control), steps=50)
    for step in (0, 1, 7, 30, 49):
        torch.testing.assert_close(played["actions"][:, step], reference(control, played, 0, step), atol=1e-5, rtol=0)


def test_window_agent_equals_the_models_forward_on_the_newest_steps(control):
    """Also while the window is not full yet, where the agent pads on the left."""
    played = play(WindowAgent(control, context_steps=8), steps=25)
    for step in (0, 3, 7, 8, 24):
        expected = reference(control, played, max(0, step - 7), step)
        torch.testing.assert_close(played["actions"][:, step], expected, atol=1e-5, rtol=0)


def test_window_and_history_differ_once_the_window_is_full(control):
    window = play(WindowAgent(control, context_steps=8), steps=25)["actions"]
    history = play(IncrementalAgent(control), steps=25)["actions"]
    torch.testing.assert_close(window[:, 0], history[:, 0], atol=1e-5, rtol=0)
    assert (window[:, 24] - history[:, 24]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["window", "incremental", "memory"])
def test_dropping_episodes_leaves_the_others_unchanged(control, kind):
    """After episodes 0 and 2 have left, episodes 1 and 3 act as in a batch that never held the others."""
    generator = torch.Generator().manual_seed(3)
    states, to_go = torch.randn(4, 30, STATE, generator=generator), torch.full((4,), 3000.0)

    def run(agent, rows, drop_at):
        agent.reset(len(rows))
        live, answers = list(range(len(rows))), []
        for step in range(30):
            if step == drop_at:
                live = [i for i, row in enumerate(rows) if row in (1, 3)]
                agent.drop(torch.tensor(live))
            batch = torch.tensor([rows[i] for i in live])
            answers.append(agent.act(states[batch, step], to_go[batch], torch.full((len(live),), step)))
        return torch.stack(answers[drop_at or 0 :], 1)

    def both(agent):
        torch.testing.assert_close(run(agent, [0, 1, 2, 3], 17), run(agent, [1, 3], None)[:, 17:], atol=1e-5, rtol=0)

    if kind == "window":
        both(WindowAgent(control))
    elif kind == "incremental":
        both(IncrementalAgent(control))
    else:
        with attach(control.model.encoder, make_policy("window", interval=16, budget=12)) as memory:
            both(IncrementalAgent(control, memory=memory))
            assert int(memory.slots().max()) < 30


def test_an_attached_memory_that_keeps_everything_equals_the_plain_cache(control):
    plain = play(IncrementalAgent(control), steps=40)["actions"]
    with attach(control.model.encoder, make_policy("full", interval=48)) as memory:
        attached = play(IncrementalAgent(control, memory=memory), steps=40)["actions"]
        assert memory.seen.tolist() == [3 * 40 - 1] * 3
    torch.testing.assert_close(attached, plain, atol=1e-5, rtol=0)


def evicting(control: ControlModel, steps: int, through_transformers: bool = False, batch: int = 3):
    """Actions under a NAMM that forgets, and the memory at the end."""
    generator = torch.Generator().manual_seed(5)
    namm = NAMM(flat=torch.randn(4172, generator=generator) * 0.3)
    policy = make_policy("namm", namm=namm, interval=16, statistics="sequence", protected_last=3)
    with attach(control.model.encoder, policy) as memory:
        agent = IncrementalAgent(control, memory=memory)
        if through_transformers:
            agent.stepper = None
        return play(agent, steps, batch)["actions"], memory


@pytest.mark.slow
def test_the_stepped_encoder_equals_the_attached_one(control):
    """Batches on both sides of the number of rows from which products go another way, with tokens forgotten."""
    for batch in (2, 8):
        stepped, memory = evicting(control, 40, batch=batch)
        attached, other = evicting(control, 40, through_transformers=True, batch=batch)
        torch.testing.assert_close(stepped, attached, atol=1e-5, rtol=0)
        assert memory.report().evicted == other.report().evicted > 0


def test_an_encoder_that_somebody_has_changed_runs_through_transformers(control):
    """A hook or an adapter layer must be called; its batch is then not divided."""
    assert StepEncoder.of(control.model.encoder) is not None
    seen = []
    hook = control.model.encoder.h[1].mlp.register_forward_hook(lambda *_: seen.append(1))
    try:
        with attach(control.model.encoder, make_policy("full")) as memory:
            agent = IncrementalAgent(control, memory=memory)
            play(agent, steps=4)
            assert len(seen) == 4
            assert agent.split([2, 2]) == [agent]
    finally:
        hook.remove()
    layer, control.model.encoder.h[0].mlp.c_fc = control.model.encoder.h[0].mlp.c_fc, torch.nn.Linear(32, 128)
    try:
        assert StepEncoder.of(control.model.encoder) is None
    finally:
        control.model.encoder.h[0].mlp.c_fc = layer


def test_what_a_step_attends_to_stays_bounded_however_long_the_episode(control):
    """Latency is flat in the episode's length because this is; with everything kept it grows."""
    held = {}
    for name, options in (("window", {"budget": 12}), ("full", {})):
        policy = make_policy(name, interval=16, **options)
        with attach(control.model.encoder, policy) as memory:
            agent = IncrementalAgent(control, memory=memory)
            agent.reset(2)
            sizes = []
            for step in range(60):
                agent.act(torch.zeros(2, STATE), torch.zeros(2), torch.full((2,), step))
                sizes.append(int(memory.slots().max()))
            held[name] = sizes
    assert max(held["window"][10:]) == max(held["window"][40:]) < 12 + 16
    assert held["full"][-1] == 3 * 60 - 1


def test_a_step_beyond_the_timestep_table_is_refused(control):
    agent = IncrementalAgent(control)
    agent.reset(1)
    with pytest.raises(ConfigError, match="at most 64 steps"):
        agent.act(torch.zeros(1, STATE), torch.zeros(1), torch.tensor([64]))


def test_load_gives_back_model_and_facts(control, folder):
    loaded = ControlModel.load(folder)
    assert loaded.facts == FACTS
    for name, value in control.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)


def test_load_ignores_the_mask_buffers_of_old_checkpoints(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    tensors["encoder.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / "model.safetensors")
    ControlModel.load(folder)


def test_a_checkpoint_without_facts_needs_statistics_and_environment(folder):
    (folder / "control.json").unlink()
    with pytest.raises(CheckpointError, match=r"control\.json.*env_id.*state_mean.*--dataset"):
        ControlModel.load(folder)
    statistics = StateStatistics(np.zeros(STATE), np.ones(STATE))
    loaded = ControlModel.load(folder, dataset_statistics=statistics, env_id="Hopper-v4", context_steps=5)
    assert (loaded.facts.env_id, loaded.facts.context_steps, loaded.facts.state_std) == ("Hopper-v4", 5, (1.0,) * STATE)


def damage(folder, name: str) -> None:
    weights, facts = folder / "model.safetensors", folder / "control.json"
    tensors = load_file(weights)
    values = asdict(FACTS)
    if name == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif name == "not safetensors":
        weights.write_bytes(b"\x80\x04" * 50)
    elif name == "nan":
        tensors["embed_state.weight"][0, 0] = float("nan")
        save_file(tensors, weights)
    elif name == "tensor missing":
        del tensors["embed_ln.bias"]
        save_file(tensors, weights)
    elif name == "other shape":
        tensors["embed_state.weight"] = torch.zeros(32, STATE + 1)
        save_file(tensors, weights)
    elif name == "weights missing":
        weights.unlink()
    elif name == "other model":
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    elif name == "config damaged":
        (folder / "config.json").write_text("{")
    elif name == "facts damaged":
        facts.write_text("[1,")
    elif name == "fact unknown":
        facts.write_text(json.dumps({**values, "speed": 1}))
    elif name == "statistics too short":
        facts.write_text(json.dumps({**values, "state_mean": [0.0]}))
    elif name == "zero deviation":
        facts.write_text(json.dumps({**values, "state_std": [0.0] * STATE}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated", "damaged file"),
        ("not safetensors", "damaged file"),
        ("nan", "embed_state.weight"),
        ("tensor missing", "embed_ln.bias"),
        ("other shape", "embed_state.weight of shape"),
        ("weights missing", "model.safetensors"),
        ("other model", "llama"),
        ("config damaged", "config.json"),
        ("facts damaged", "control.json"),
        ("fact unknown", "speed"),
        ("statistics too short", "state_mean of 11"),
        ("zero deviation", "state_std"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(folder, name, message):
    damage(folder, name)
    with pytest.raises(CheckpointError, match=message):
        ControlModel.load(folder)


def test_an_unknown_folder_names_its_neighbours(folder):
    (folder / "hopper-medium").mkdir()
    (folder / "hopper-medium" / "config.json").write_text("{}")
    (folder / "hopper-medial").mkdir()  # as near, but no checkpoint
    with pytest.raises(CheckpointError, match="checkpoints beside it: hopper-medium;"):
        ControlModel.load(folder / "hopper-medum")


def test_check_environment_names_both_sizes(control):
    control.check_environment(gym.make("Hopper-v5"))
    with pytest.raises(ConfigError, match=r"11 numbers.*\(17,\) in HalfCheetah-v5.*Hopper-v5"):
        control.check_environment(gym.make("HalfCheetah-v5"))
    with pytest.raises(ConfigError, match=r"\(2,\) in MountainCarContinuous-v0"):
        control.check_environment(gym.make("MountainCarContinuous-v0"))


class ConstantAgent:
    """Does the same in every state, and writes down what it is told."""

    def __init__(self, action: float, size: int = ACTION) -> None:
        self.action, self.size, self.batches, self.to_go = action, size, [], []

    def reset(self, batch: int) -> None:
        self.batches.append(batch)

    def act(self, states, returns_to_go, timesteps):
        self.to_go.append(returns_to_go.tolist())
        assert len(set(timesteps.tolist())) == 1
        return torch.full((len(states), self.size), self.action)

    def drop(self, indices_to_keep) -> None:
        self.batches.append(len(indices_to_keep))


def test_rollout_equals_one_environment_at_a_time():
    """Episodes of different lengths, finished ones leaving, must give the returns of plain sequential loops."""
    agent, observed = ConstantAgent(0.2), []
    played = rollout(agent, "Hopper-v5", [5, 6, 7], 3000.0, on_step=lambda step, live: observed.append((step, live)))
    for episode in played.episodes:
        env = gym.make("Hopper-v5")
        env.reset(seed=episode.seed)
        total, length, done = 0.0, 0, False
        while not done:
            _, reward, terminated, truncated, _ = env.step(np.full(ACTION, 0.2, np.float32))
            total, length, done = total + reward, length + 1, terminated or truncated
        assert episode.total == pytest.approx(total)
        assert episode.length == length
        assert episode.success is None
    assert [episode.seed for episode in played.episodes] == [5, 6, 7]
    assert played.steps == sum(episode.length for episode in played.episodes) == sum(len(live) for _, live in observed)
    assert agent.batches[0] == 3
    assert agent.batches == sorted(agent.batches, reverse=True)
    assert agent.to_go[0] == [3000.0] * 3
    assert agent.to_go[1][0] < 3000.0


def test_rollout_refuses_bad_actions_unknown_environments_and_no_seeds():
    with pytest.raises(DataError, match="step 0"):
        rollout(ConstantAgent(float("nan")), "Hopper-v5", [0], 1.0)
    with pytest.raises(UnknownNameError, match="Did you mean 'Hopper-v"):
        rollout(ConstantAgent(0.0), "Hoper-v5", [0], 1.0)
    with pytest.raises(ConfigError, match="seed"):
        rollout(ConstantAgent(0.0), "Hopper-v5", [], 1.0)
    with pytest.raises(ConfigError, match="speed"):
        make_env("Hopper-v5", {"speed": 3})


def test_what_a_reset_tells_reaches_the_observer_and_the_result():
    """A T-maze says where its cue is; a memory is judged by whether that step survives."""
    tmaze.register()
    told = []
    agent, maze = ConstantAgent(0.5, size=2), {"corridor_steps": 50}
    played = rollout(agent, tmaze.ENV_ID, [3, 4], 1.0, env_kwargs=maze, on_start=told.extend)
    cues = []
    for seed in (3, 4):
        _, info = gym.make(tmaze.ENV_ID, **maze).reset(seed=seed)
        cues.append(info["cue_step"])
    assert [info["cue_step"] for info in told] == cues
    assert [episode.cue_steps for episode in played.episodes] == [(cue,) for cue in cues]


def test_another_environment_does_not_inherit_the_arguments_of_the_checkpoints_own():
    shipped = Path(__file__).parents[3] / "checkpoints" / "control" / "tmaze"
    assert ControlModel.load(shipped).facts.env_id == "ContinuousTMaze-v0"
    assert ControlModel.load(shipped, env_id="Hopper-v5").facts.env_kwargs == {}
