"""Reads and writes offline episodes: D4RL's HDF5 schema, and Minari datasets.

D4RL stores one flat array per quantity over all steps; an episode ends where `terminals` OR `timeouts` is set, files of
the first generation lack `timeouts` and mean 1000 steps, and a trailing unfinished episode is dropped. What D4RL adds
beside that (`infos/*`, `metadata/*`) is ignored. Everything is checked before it is used: shapes, lengths, finite
values.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Bool, Float

from evaluations.tasks.d4rl import Episode
from namm.errors import DataError

STEPS_WITHOUT_TIMEOUTS = 1000
"""Length after which an episode is cut in files that have no `timeouts`."""


def read_hdf5(path: str | Path) -> list[Episode]:
    """Complete episodes of a file in D4RL's schema.

    Args:
        path: HDF5 file with `observations` [N, S], `actions` [N, A], `rewards` [N], `terminals` [N], and, where the
            file has them, `timeouts` [N] and `next_observations` [N, S].

    Raises:
        DataError: The file is missing or damaged, a key is absent, a shape does not fit, or a value is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"expected a D4RL HDF5 file at {path}, found none; check the path")
    try:
        with h5py.File(path, "r") as file:
            needed = ("observations", "actions", "rewards", "terminals")
            missing = [name for name in needed if not isinstance(file.get(name), h5py.Dataset)]
            if missing:
                raise DataError(f"expected the arrays {', '.join(needed)} in {path}, missing: {', '.join(missing)}")
            optional = [name for name in ("timeouts", "next_observations") if name in file]
            arrays = {name: np.asarray(file[name]) for name in (*needed, *optional)}
    except (OSError, RuntimeError) as error:  # h5py: "truncated file", "file signature not found", a damaged chunk
        raise DataError(f"expected an HDF5 file at {path}, found a damaged one ({error}); copy it again") from error
    check(arrays, path)
    return split(arrays)


def check(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Raises DataError where an array has another shape or length than the schema says, or holds NaN or infinity."""
    steps = len(arrays["observations"]) if arrays["observations"].ndim else 0
    for name, values in arrays.items():
        flags = name in ("terminals", "timeouts")
        dimensions = 2 if name in ("observations", "next_observations", "actions") else 1
        if values.ndim == 2 and values.shape[1] == 1 and dimensions == 1:
            values = arrays[name] = values[:, 0]  # some writers keep a trailing axis of one
        if values.ndim != dimensions or len(values) != steps:
            expected = f"{dimensions} dimension(s) of {steps} steps"
            raise DataError(f"expected {name} with {expected} in {path}, found shape {values.shape}; check the writer")
        if not flags and not (np.issubdtype(values.dtype, np.number) and np.isfinite(values).all()):
            raise DataError(f"expected finite numbers in {name} of {path}, found NaN, infinity or text; repair it")
    if "next_observations" in arrays and arrays["next_observations"].shape != arrays["observations"].shape:
        found = arrays["next_observations"].shape
        raise DataError(f"expected next_observations shaped as observations in {path}, found {found}; check the writer")


def episode_ends(terminals: Bool[np.ndarray, " n"], timeouts: Bool[np.ndarray, " n"] | None) -> list[int]:
    """Index of the last step of each complete episode."""
    if timeouts is not None:
        return np.flatnonzero(terminals | timeouts).tolist()
    ends, start = [], 0
    for step, terminal in enumerate(terminals):
        if terminal or step - start + 1 == STEPS_WITHOUT_TIMEOUTS:
            ends.append(step)
            start = step + 1
    return ends


def split(arrays: dict[str, np.ndarray]) -> list[Episode]:
    """Cuts flat arrays into complete episodes; steps after the last end are dropped."""
    terminals = arrays["terminals"].astype(bool)
    timeouts = arrays["timeouts"].astype(bool) if "timeouts" in arrays else None
    following = arrays.get("next_observations")
    episodes, start = [], 0
    for end in episode_ends(terminals, timeouts):
        part = slice(start, end + 1)
        # without next_observations the state after the last action is unknown: its best stand-in is the last state
        last = following[end] if following is not None else arrays["observations"][end]
        episodes.append(
            Episode(
                observations=arrays["observations"][part].astype(np.float32),
                actions=arrays["actions"][part].astype(np.float32),
                rewards=arrays["rewards"][part].astype(np.float32),
                last_observation=last.astype(np.float32),
                terminated=bool(terminals[end]),
            )
        )
        start = end + 1
    return episodes


def write_hdf5(path: str | Path, episodes: list[Episode]) -> None:
    """Writes episodes in D4RL's schema (v2: with `next_observations` and `timeouts`), gzip-packed and atomically.

    Raises:
        DataError: There is no episode to write.
    """
    if not episodes:
        raise DataError("expected at least one episode to write, found none")
    ends = np.cumsum([len(episode.rewards) for episode in episodes]) - 1
    terminals, timeouts = np.zeros(ends[-1] + 1, bool), np.zeros(ends[-1] + 1, bool)
    for end, episode in zip(ends, episodes, strict=True):
        (terminals if episode.terminated else timeouts)[end] = True
    following = [np.concatenate([e.observations[1:], e.last_observation[None]]) for e in episodes]
    arrays: dict[str, Float[np.ndarray, "n ..."] | Bool[np.ndarray, " n"]] = {
        "observations": np.concatenate([e.observations for e in episodes]).astype(np.float32),
        "actions": np.concatenate([e.actions for e in episodes]).astype(np.float32),
        "rewards": np.concatenate([e.rewards for e in episodes]).astype(np.float32),
        "next_observations": np.concatenate(following).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with h5py.File(temporary, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip", shuffle=True)
    os.replace(temporary, path)


def write_minari(
    dataset_id: str, episodes: list[Episode], env_id: str, reference: tuple[float, float], description: str
) -> None:
    """Creates a Minari dataset, with the reference scores that `minari.get_normalized_score` needs.

    Args:
        dataset_id: "namespace/name-vN"; it must not exist. It lies under $MINARI_DATASETS_PATH.
        episodes: What to store; time outs become truncations.
        env_id: Gymnasium id, stored so that `recover_environment()` works.
        reference: (random, expert) return.
        description: Free text of the dataset's card.

    Raises:
        DataError: The dataset exists already.
    """
    import gymnasium as gym
    import minari
    from minari.data_collector import EpisodeBuffer

    if dataset_id in minari.list_local_datasets():
        raise DataError(f"expected no Minari dataset named {dataset_id}, found one; delete it or choose another id")
    buffers = []
    for number, episode in enumerate(episodes):
        ends = np.zeros(len(episode.rewards), bool)
        ends[-1] = True
        none = np.zeros_like(ends)
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=np.concatenate([episode.observations, episode.last_observation[None]]),
                actions=episode.actions,
                rewards=episode.rewards,
                terminations=ends if episode.terminated else none,
                truncations=none if episode.terminated else ends,
            )
        )
    env = gym.make(env_id)
    space = gym.spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)
    with warnings.catch_warnings():  # of an author's address and a link to code, which a generated dataset has not
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")
        minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            env=env_id,
            observation_space=space,
            action_space=env.action_space,
            ref_min_score=reference[0],
            ref_max_score=reference[1],
            description=description,
        )
    env.close()


def read_minari(dataset_id: str) -> list[Episode]:
    """Complete episodes of a local Minari dataset with vector observations and actions.

    Raises:
        DataError: There is no such local dataset, or its observations are not vectors of finite numbers.
    """
    import minari

    local = minari.list_local_datasets()
    if dataset_id not in local:
        known = ", ".join(local) or "none"
        hint = f"run `minari download {dataset_id}` or set MINARI_DATASETS_PATH"
        raise DataError(f"expected a local Minari dataset named {dataset_id}, found only: {known}; {hint}")
    episodes = []
    for stored in minari.load_dataset(dataset_id).iterate_episodes():
        observations = stored.observations
        if not isinstance(observations, np.ndarray) or observations.ndim != 2:
            raise DataError(f"expected vector observations in {dataset_id}, found {type(observations).__name__}")
        if not (np.isfinite(observations).all() and np.isfinite(stored.rewards).all()):
            raise DataError(f"expected finite numbers in {dataset_id}, found NaN or infinity; repair the dataset")
        if not (stored.terminations[-1] or stored.truncations[-1]):
            continue
        episodes.append(
            Episode(
                observations=observations[:-1].astype(np.float32),
                actions=np.asarray(stored.actions, np.float32),
                rewards=np.asarray(stored.rewards, np.float32),
                last_observation=observations[-1].astype(np.float32),
                terminated=bool(stored.terminations[-1]),
            )
        )
    return episodes
