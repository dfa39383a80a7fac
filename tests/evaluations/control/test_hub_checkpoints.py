"""Checkpoints that are not ours, through `rl.py`: what their name and config.json say is enough to evaluate them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from minari.data_collector import EpisodeBuffer

from evaluations.boards.run_content import run_content
from evaluations.control import experiment
from evaluations.control.targets import TargetOptions, resolve_targets
from evaluations.control.trials import TRIALS
from evaluations.rl import main
from evaluations.tasks.control.comparability import comparability
from evaluations.tasks.control.d4rl import published_statistics
from modalities.control.agents import import_transformers
from modalities.control.rollout import make_env
from namm.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from tests.evaluations.control.tiny_control import tiny_namm

CPU = torch.device("cpu")
SIZES = {"hopper": (11, 3), "halfcheetah": (17, 6), "walker2d": (17, 6)}


@pytest.fixture(autouse=True)
def _no_data_at_hand(tmp_path, monkeypatch):
    for name in ("D4RL_DATASET_DIR", "MINARI_DATASETS_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def hub_checkpoint(folder: Path, **changes) -> Path:
    """As the stock class saves it: no control.json; then fields of config.json changed, or left out where None."""
    transformers = import_transformers()
    robot = next((robot for robot in SIZES if robot in folder.name), "hopper")
    state, action = SIZES[robot]
    config = transformers.DecisionTransformerConfig(
        state_dim=state, act_dim=action, hidden_size=16, n_layer=2, n_head=2, max_ep_len=1000
    )
    torch.manual_seed(0)
    transformers.DecisionTransformerModel(config).save_pretrained(folder)
    values = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    return folder


def resolve(*checkpoints: Path | str, **options):
    return resolve_targets(TargetOptions(checkpoint=[str(path) for path in checkpoints], **options), CPU)


@pytest.mark.parametrize(
    ("name", "env_id", "asked"),
    [
        ("decision-transformer-gym-hopper-medium-replay", "Hopper-v4", 3600.0),
        ("decision-transformer-gym-halfcheetah-expert", "HalfCheetah-v4", 12000.0),
        ("decision-transformer-gym-walker2d-medium", "Walker2d-v4", 5000.0),
    ],
)
def test_a_published_name_needs_nothing_else(tmp_path, name, env_id, asked):
    [(target, control)] = resolve(hub_checkpoint(tmp_path / name))
    statistics = published_statistics(name.removeprefix("decision-transformer-gym-"))
    assert (target.env_id, target.target_return) == (env_id, asked)
    assert control.facts.state_mean == tuple(statistics.mean)
    assert control.facts.state_std == tuple(statistics.std)
    assert (control.facts.context_steps, control.facts.return_scale) == (20, 1000.0)
    assert control.facts.reference_scores is not None
    assert "published state statistics" in target.remarks[0]


def test_a_dataset_says_what_a_name_does_not(tmp_path):
    folder = hub_checkpoint(tmp_path / "my-agent", max_length=7)
    with pytest.raises(CheckpointError, match=r"--env.*--dataset"):
        resolve(folder)
    [(target, control)] = resolve(folder, dataset="hopper-medium")
    assert (target.env_id, control.facts.context_steps) == ("Hopper-v4", 7)
    with pytest.raises(CheckpointError, match=r"state_mean of 11 numbers.*found 17"):
        resolve(folder, dataset="walker2d-medium")
    with pytest.raises(DataError, match="published only for"):
        resolve(hub_checkpoint(tmp_path / "dt-hopper-random"))
    with pytest.raises(ConfigError, match="name it with --checkpoint"):
        resolve_targets(TargetOptions(dataset="hopper-medium"), CPU)


def test_an_odd_checkpoint_is_played_and_its_scores_are_marked(tmp_path, monkeypatch, capsys):
    """From the command line to rows and tables, on a robot whose feet are not D4RL's."""
    monkeypatch.setattr(experiment, "write_page", lambda path, *rest: path)
    odd = {"max_ep_len": 4096, "state_dim": None, "max_length": 5, "architectures": ["TrainableDT"], "K": 20, "odd": []}
    folder = hub_checkpoint(tmp_path / "decision-transformer-gym-walker2d-expert", **odd)
    out = tmp_path / "rl"
    small = ["--episodes", "1", "--seeds", "0", "--max-steps", "12", "--wandb", "disabled", "--no-video"]
    policies = ["--namm", str(tiny_namm(tmp_path / "namm")), "--policy", "native_window", "full"]
    command = ["--checkpoint", str(folder), *small, *policies, "--out", str(out)]
    assert main(command) == 0
    assert main([*command, "--env", "Walker2d-v5"]) == 0
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == ["Walker2d-v4"] * 2 + ["Walker2d-v5"] * 2
    verdicts = [row["comparability"]["verdict"] for row in rows]
    assert verdicts == ["nearly comparable"] * 2 + ["not D4RL-comparable"] * 2
    assert all(row["identity"]["facts"]["context_steps"] == 5 for row in rows)
    assert all(np.isfinite(row["metrics"]["normalised_score"]) for row in rows)
    assert [TRIALS.environment(row) for row in rows[1:3]] == ["Walker2d-v4", "Walker2d-v5 (not D4RL-comparable)"]
    assert run_content(rows[3], "name", {}).config["comparability"] == "not D4RL-comparable"
    said = " ".join(capsys.readouterr().out.split())
    versions = rows[0]["versions"]
    assert f"Walker2d-v4, gymnasium {versions['gymnasium']}, mujoco {versions['mujoco']})" in said
    assert "not D4RL-comparable: Walker2d-v5 raised the friction" in said
    assert "not D4RL-comparable" in (out / "summary.md").read_text()


def test_walkers_feet_are_what_the_verdict_says():
    """The reason given for v5, read from the simulator's own models."""
    friction = {}
    for version in (4, 5):
        env = gym.make(f"Walker2d-v{version}")
        model = env.unwrapped.model
        friction[version] = [model.geom(name).friction[0] for name in ("foot_geom", "foot_left_geom")]
        env.close()
    assert friction == {4: [0.9, 1.9], 5: [1.9, 1.9]}
    assert comparability("Walker2d-v5").verdict == "not D4RL-comparable"


@pytest.mark.parametrize(
    ("env_id", "verdict"),
    [("Hopper-v5", "nearly comparable"), ("Hopper-v3", "comparable"), ("ns/Ant-v5", "not D4RL-comparable")],
)
def test_the_verdict_on_other_robots(env_id, verdict):
    assert comparability(env_id).verdict == verdict
    assert comparability("ContinuousTMaze-v0") is None


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_a_goal_conditioned_set_and_its_environment_fit_one_model(tmp_path, monkeypatch):
    """Both hand out dictionaries; the data and the environment are flattened alike, so the statistics belong."""
    (tmp_path / "goals.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "box = gym.spaces.Box\n"
        "class Goal(gym.Env):\n"
        "    observation_space = gym.spaces.Dict({'observation': box(-9, 9, (8,)), 'desired_goal': box(-9, 9, (3,))})\n"
        "    action_space = box(-1, 1, (3,))\n"
        "    def reset(self, seed=None, options=None):\n"
        "        seen = {'observation': np.full(8, 2.0, 'f4'), 'desired_goal': np.full(3, 7.0, 'f4')}\n"
        "        return seen, {}\n"
        "gym.register('Goal-v0', entry_point='goals:Goal')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    random = np.random.default_rng(0)
    observations = {"observation": 2 + random.normal(size=(6, 8)), "desired_goal": 7 + random.normal(size=(6, 3))}
    ends = np.arange(5) == 4
    folder = hub_checkpoint(tmp_path / "my-agent")  # 11 states, 3 actions
    try:
        importlib.import_module("goals")
        episode = EpisodeBuffer(0, None, None, observations, np.zeros((5, 3), "f4"), np.ones(5), ends, ~ends & ends)
        minari.create_dataset_from_buffers("goals/reach-v0", [episode], env="Goal-v0")
        [(target, control)] = resolve(folder, dataset="goals/reach-v0", target_return=5.0)
        np.testing.assert_allclose(control.facts.state_mean[:3], observations["desired_goal"][:5].mean(0), rtol=1e-5)
        env = make_env(target.env_id)
        assert env.reset(seed=0)[0].tolist() == [7.0] * 3 + [2.0] * 8
    finally:
        gym.registry.pop("Goal-v0", None)
    assert control.facts.reference_scores is None


def test_a_robot_that_moved_away_is_explained_and_a_kept_one_not_advised_against(tmp_path, recwarn):
    """The model cards evaluate on Hopper-v3, which Gymnasium gave to another package."""
    folder = hub_checkpoint(tmp_path / "decision-transformer-gym-hopper-medium")
    with pytest.raises(ConfigError, match=r"Hopper-v3 needs.*gymnasium-robotics.*as v4"):
        resolve(folder, env=["Hopper-v3"])
    resolve(folder)
    assert not [warning for warning in recwarn if "out of date" in str(warning.message)]


def test_environments_that_a_package_registers_are_found(tmp_path, monkeypatch):
    """`package:Name-v0` imports the package, as gymnasium.make does; namespaces are part of a name."""
    (tmp_path / "my_robots.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('my-robots/Hopper-v0', entry_point='gymnasium.envs.mujoco.hopper_v5:HopperEnv')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = hub_checkpoint(tmp_path / "decision-transformer-gym-hopper-medium")
    try:
        [(target, control)] = resolve(folder, env=["my_robots:my-robots/Hopper-v0"])
    finally:
        gym.registry.pop("my-robots/Hopper-v0", None)
    assert (target.env_id, target.target_return) == ("my_robots:my-robots/Hopper-v0", 3600.0)
    assert control.facts.reference_scores == (-20.272305, 3234.3)
    with pytest.raises(UnknownNameError, match="no_such_package"):
        resolve(folder, env=["no_such_package:Name-v0"])
    with pytest.raises(UnknownNameError, match="Did you mean 'Hopper-v5'"):
        resolve(folder, env=["Hoper-v5"])
