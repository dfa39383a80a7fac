"""Reads and writes offline episodes as Minari datasets, local ones and those of the Farama server.

Observations that are dictionaries (goal-conditioned tasks) become vectors exactly as
`gymnasium.wrappers.FlattenObservation` makes them, keys in the order of the space, so an environment wrapped in it fits
a model trained on them. A new dataset is built beside the others and moved into place when it is whole.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from evaluations.tasks.control.contradictions import name_remarks, score_remarks
from evaluations.tasks.control.d4rl import Episode, OfflineDataset, reference_scores, tasks
from evaluations.tasks.control.entry import Entrance
from modalities.control.facts import reference_pair
from modalities.control.rollout import make_env
from namm.errors import DataError, UnknownNameError, did_you_mean
from namm.typed import Origin


def read_minari(dataset_id: str) -> list[Episode]:
    """Complete episodes of a Minari dataset in float32; see `open_minari`."""
    return open_minari(dataset_id).episodes


def open_minari(source: str | Path, dtype: type[np.floating] | None = np.float32) -> OfflineDataset:
    """A Minari dataset with observations and actions that are vectors, or dictionaries of vectors.

    Args:
        source: Id such as "mujoco/hopper/medium-v0", local or on the server (fetched once, unless HF_HUB_OFFLINE is
            set); or the folder of a dataset.
        dtype: Of the episodes' numbers; None keeps what the dataset has.

    Raises:
        DataError: There is no such dataset, it is damaged, or what it holds are not vectors of finite numbers.
    """
    dataset = _load(source)
    name = str(source)
    try:
        metadata = dict(dataset.storage.metadata)
        episodes, left_out, remarks = _episodes(dataset, name, dtype)
        env_id = None if dataset.env_spec is None else dataset.env_spec.id
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file makes its readers raise
        raise DataError(
            f"expected a Minari dataset in {name}, found a damaged one ({type(error).__name__}: {error}); fetch it "
            "again"
        ) from error
    if isinstance(dataset.observation_space, gym.spaces.Dict):
        keys = ", ".join(dataset.observation_space.spaces)
        remarks.insert(
            0, f"observations are {keys}, joined in this order as gymnasium.wrappers.FlattenObservation does"
        )
    origin = Origin(f"the metadata of {name}", DataError, "correct it, or fetch the set again")
    lowest, highest = (_plain(metadata.get(key)) for key in ("ref_min_score", "ref_max_score"))
    reference = reference_pair(lowest, highest, origin, ("ref_min_score", "ref_max_score"))
    task = next((task.name for task in tasks().values() if task.name == name.lower().replace("/", "-")), None)
    remarks += score_remarks(reference, (env_id,), "the dataset")
    if episodes:
        remarks += name_remarks(env_id, task, episodes[0].observations.shape[1], episodes[0].actions.shape[1])
    if reference is None and env_id is not None:
        try:
            reference = reference_scores(env_id)
        except UnknownNameError:  # only D4RL's own tasks have scores
            reference = None
    return OfflineDataset(name, "Minari dataset", episodes, left_out, env_id, reference, tuple(remarks))


def _episodes(dataset: Any, name: str, dtype: type[np.floating] | None) -> tuple[list[Episode], int, list[str]]:
    """The complete episodes, the steps of the others, and what is odd about them."""
    episodes: list[Episode] = []
    entrance, left_out, steps = Entrance(name), 0, 0
    for stored in dataset.iterate_episodes():
        where = f"episode {stored.id} of {name}"
        steps += len(stored.rewards)
        flags = stored.terminations, stored.truncations
        if all(len(flag) and not flag[-1] for flag in flags):
            left_out += len(stored.rewards)
            continue
        observations = _vectors(stored.observations, dataset.observation_space, "observations", where, dtype)
        actions = _vectors(stored.actions, dataset.action_space, "actions", where, dtype)
        rewards = np.asarray(stored.rewards)
        if not np.issubdtype(rewards.dtype, np.number):
            raise DataError(f"expected numbers in rewards of {where}, found {rewards.dtype}; repair the dataset")
        rewards = rewards.astype(dtype or np.result_type(rewards.dtype, np.float32))
        episodes.append(entrance.admit(stored.id, observations, None, actions, rewards, *flags))
    remarks = entrance.remarks()
    said = _plain(dataset.storage.metadata.get("total_steps"))
    if said is not None and said != steps:
        remarks.append(f"the metadata say {said} steps, the episodes have {steps}")
    return episodes, left_out, remarks


def _plain(value: Any) -> Any:
    """A number of numpy as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def write_minari(
    dataset_id: str,
    episodes: Sequence[Episode],
    env_id: str | None,
    reference: tuple[float, float] | None,
    description: str,
    overwrite: bool = False,
) -> None:
    """Creates a Minari dataset, with the reference scores that `minari.get_normalized_score` needs.

    Args:
        dataset_id: "namespace/name-vN". It lies under $MINARI_DATASETS_PATH.
        episodes: What to store; time outs become truncations.
        env_id: Gymnasium id, stored so that `recover_environment()` works; None leaves that out.
        reference: (random, expert) return, where there is one.
        description: Free text of the dataset's card.
        overwrite: Replace a dataset of that name.

    Raises:
        DataError: The dataset exists already, its id is not one, or episodes and environment do not fit.
    """
    import minari
    from minari import namespace as namespaces
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        namespace = parse_dataset_id(dataset_id)[0]
    except ValueError as error:
        raise DataError(f"expected an id such as namespace/name-v0, found {dataset_id!r}; choose another") from error
    if not episodes:
        raise DataError("expected at least one complete episode to store, found none")
    place = _root() / dataset_id
    if place.exists() and not overwrite:
        raise DataError(f"expected no Minari dataset named {dataset_id}, found one; delete it or choose another id")
    observation_space, action_space = _spaces(episodes, env_id)
    _root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=_root()) as workshop:
        with _minari_writes_to(workshop), warnings.catch_warnings():
            # of an author's address and a link to code, which a conversion has not
            warnings.filterwarnings("ignore", category=UserWarning, module="minari")
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                [_buffer(number, episode) for number, episode in enumerate(episodes)],
                observation_space=observation_space,
                action_space=action_space,
                env=env_id,
                description=description,
                data_format="hdf5",
            )
            if reference is not None:  # Minari drops scores that are given with a set that names no environment
                dataset.storage.update_metadata({"ref_min_score": reference[0], "ref_max_score": reference[1]})
        if namespace is not None and namespace not in namespaces.list_local_namespaces():
            namespaces.create_namespace(namespace)
        if place.exists():
            os.replace(place, Path(workshop) / ".replaced")
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(Path(workshop) / dataset_id, place)


@contextmanager
def _minari_writes_to(folder: str) -> Iterator[None]:
    """Minari takes its folder from the environment alone."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = folder
    try:
        yield
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


def _root() -> Path:
    from minari.storage.datasets_root_dir import get_dataset_path

    return get_dataset_path()


def _load(source: str | Path) -> Any:
    import minari

    folder = Path(source)
    if folder.is_dir():
        places = [place for place in (folder / "data", folder) if (place / "metadata.json").is_file()]
        if not places:
            raise DataError(f"expected a Minari dataset in the folder {folder}, found no data/metadata.json in it")
        return _opened(lambda: minari.MinariDataset(places[0]), str(source))
    name = str(source)
    if not (_root() / name / "data").is_dir():
        _download(name)
    return _opened(lambda: minari.load_dataset(name), name)


def _opened(load: Any, name: str) -> Any:
    try:
        return load()
    except Exception as error:  # whatever damaged metadata make their readers raise
        raise DataError(
            f"expected a readable Minari dataset in {name}, found {type(error).__name__}: {error}; fetch it again"
        ) from error


def _download(dataset_id: str) -> None:
    """Fetches a dataset of the Farama server; ids there have a namespace, so a bare word is not looked up."""
    import minari

    local = list(minari.list_local_datasets())
    alike = did_you_mean(dataset_id, [*local, *(name.rpartition("-v")[0] for name in tasks())]).partition("Known:")[0]
    hint = f"found only: {', '.join(local) or 'none'}. {alike}"
    if "/" not in dataset_id or os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise DataError(
            f"expected a local Minari dataset named {dataset_id}, {hint}Run `minari download {dataset_id}` or set "
            "MINARI_DATASETS_PATH"
        )
    try:
        minari.download_dataset(dataset_id)
    except Exception as error:  # whatever the network, the server or the id is up to
        reason = (str(error).strip().splitlines() or [""])[0]
        raise DataError(
            f"expected a Minari dataset named {dataset_id} on this machine or on the Farama server, {hint}The server "
            f"could not be asked or has none ({type(error).__name__}: {reason})"
        ) from error


def _vectors(
    values: Any, space: gym.Space[Any], what: str, name: str, dtype: type[np.floating] | None
) -> Float[np.ndarray, "steps width"]:
    """Values of a space, one vector a step; a dictionary is joined in the order of its space."""
    if isinstance(space, gym.spaces.Dict) and isinstance(values, Mapping):
        if lost := sorted(space.spaces.keys() - values.keys()):
            raise DataError(f"expected {', '.join(space.spaces)} in {what} of {name}, missing {lost}; fetch it again")
        parts = [_vectors(values[key], part, f"{what}/{key}", name, dtype) for key, part in space.spaces.items()]
        if len({len(part) for part in parts}) > 1:
            counts = dict(zip(space.spaces, map(len, parts), strict=True))
            raise DataError(f"expected as many of each part in {what} of {name}, found {counts}; repair the dataset")
        return np.concatenate(parts, axis=1)
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise DataError(
            f"expected vectors in {what} of {name}, found {space}; a Decision Transformer of vectors cannot use it"
        )
    found = np.asarray(values)
    if not np.issubdtype(found.dtype, np.number) or found.shape[1:] != space.shape:
        raise DataError(
            f"expected vectors of {space.shape[0]} numbers in {what} of {name}, as its space says, found "
            f"{found.dtype} of shape {found.shape}; repair the dataset"
        )
    return found.astype(dtype or np.result_type(found.dtype, np.float32))


def _spaces(episodes: Sequence[Episode], env_id: str | None) -> tuple[gym.spaces.Box, gym.spaces.Box]:
    """The spaces of the stored arrays, checked against the environment where there is one."""
    states, actions = episodes[0].observations, episodes[0].actions
    observation_space = gym.spaces.Box(-np.inf, np.inf, states.shape[1:], states.dtype.type)
    if env_id is None:
        bound = 1.0 if all(np.abs(episode.actions).max() <= 1 for episode in episodes) else np.inf
        return observation_space, gym.spaces.Box(-bound, bound, actions.shape[1:], actions.dtype.type)
    env = make_env(env_id)
    env.close()
    found = observation_space.shape, actions.shape[1:]
    if (env.observation_space.shape, env.action_space.shape) != found:
        raise DataError(
            f"expected states and actions of {env_id}, {env.observation_space.shape} and {env.action_space.shape}, "
            f"found {found[0]} and {found[1]} in the episodes; name the environment that they come from"
        )
    return observation_space, env.action_space


def _buffer(number: int, episode: Episode) -> Any:
    from minari.data_collector import EpisodeBuffer

    ends, none = np.zeros(len(episode.rewards), bool), np.zeros(len(episode.rewards), bool)
    ends[-1] = True
    arrays: dict[str, Any] = {  # its annotations name lists alone, its writer takes arrays
        "observations": np.concatenate([episode.observations, episode.last_observation[None]]),
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminations": ends if episode.terminated else none,
        "truncations": ends if episode.timed_out else none,
    }
    return EpisodeBuffer(id=number, **arrays)
