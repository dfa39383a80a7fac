"""Reads and writes offline episodes in D4RL's HDF5 schema, all generations of it (v0 to v2).

D4RL stores one flat array per quantity over all steps; an episode ends where `terminals` OR `timeouts` is set, files of
the first generation lack `timeouts` and mean a number of steps, and a trailing unfinished episode is dropped. What D4RL
adds beside that (`infos/*`, `metadata/*` with the behaviour policy) is never opened. What is used is checked first:
shapes, lengths, flags, finite values. Of the largest array beside the states, `next_observations`, only the rows after
an episode's last action are kept.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool, Float, Int

from evaluations.tasks.control.contradictions import end_remarks, name_remarks, score_remarks
from evaluations.tasks.control.d4rl import Episode, OfflineDataset, task_of_file
from evaluations.tasks.control.entry import Entrance
from modalities.control.facts import reference_pair
from namm.errors import DataError
from namm.typed import Origin

STEPS_WITHOUT_TIMEOUTS = 1000
"""Length after which an episode is cut in files that have no `timeouts` and belong to no known task."""

BLOCK = 65_536
"""Rows of `next_observations` in memory at a time."""
SAME_STATE = 1e-3
"""Distance, in a state's own units, up to which two files' roundings of it count as one."""

DIMENSIONS = {"observations": 2, "actions": 2, "next_observations": 2, "rewards": 1, "terminals": 1, "timeouts": 1}
"""Of each array; all have one row a step."""

ATTRIBUTES = ("env_id", "ref_min_score", "ref_max_score")
"""Attributes of the file in which this project keeps what D4RL keeps in its code."""


def read_hdf5(path: str | Path) -> list[Episode]:
    """Complete episodes of a file in D4RL's schema, in float32; see `open_hdf5`."""
    return open_hdf5(path).episodes


def open_hdf5(
    path: str | Path, dtype: type[np.floating] | None = np.float32, longest: int | None = None
) -> OfflineDataset:
    """A file in D4RL's schema.

    Args:
        path: HDF5 file, also gzipped as a whole, with `observations` [N, S], `actions` [N, A], `rewards` [N],
            `terminals` [N], and, where the file has them, `timeouts` [N] and `next_observations` [N, S]. Trailing axes
            of one do not matter.
        dtype: Of the episodes' numbers; None keeps what the file has.
        longest: Steps after which an episode is cut where there are no `timeouts`; None: what D4RL says of the task
            that the file is named after, else 1000.

    Raises:
        DataError: The file is missing or damaged, a key is absent, a shape does not fit, or a value is not finite.
    """
    path = Path(path)
    task = task_of_file(path.name)
    cut = longest or (task.steps if task else STEPS_WITHOUT_TIMEOUTS)
    with _opened(path) as file:
        stored = _stored(file, path)
        observations, actions, rewards = (
            _numbers(stored[name], name, path, dtype) for name in ("observations", "actions", "rewards")
        )
        terminals = _flags(stored["terminals"], "terminals", path)
        timeouts = _flags(stored["timeouts"], "timeouts", path) if "timeouts" in stored else None
        ends = episode_ends(terminals, timeouts, cut)
        if "next_observations" in stored:
            last, remarks = _last_observations(stored["next_observations"], observations, ends, path)
        else:
            last, remarks = observations[ends], ["no next_observations: each episode's last state stands in for them"]
            remarks += end_remarks(observations, ends)
        env_id, reference = _facts(file, path)
    if timeouts is None:
        remarks.append(f"no timeouts: episodes are cut after {cut} steps, as {task.name if task else 'D4RL'} does")
    episodes, start, entrance = [], 0, Entrance(str(path))
    for number, (end, last_observation) in enumerate(zip(ends, last, strict=True)):
        part = slice(start, end + 1)
        arrays = observations[part], last_observation, actions[part], rewards[part], terminals[part]
        episodes.append(entrance.admit(number, *arrays, None if timeouts is None else timeouts[part]))
        start = int(end) + 1
    env_id, name = env_id or (task.env_id if task else None), task.name if task else None
    remarks += score_remarks(reference, (name, env_id), "the file")
    remarks += name_remarks(env_id, name, observations.shape[1], actions.shape[1])
    reference = reference or (task.reference if task else None)
    left_out = len(rewards) - start
    return OfflineDataset(str(path), "D4RL file", episodes, left_out, env_id, reference, tuple(remarks))


def _facts(file: h5py.File, path: Path) -> tuple[str | None, tuple[float, float] | None]:
    """Environment and reference scores that the file's attributes say.

    Raises:
        DataError: One is of another kind.
    """
    origin = Origin(str(path), DataError, "correct the attribute")
    env_id, lowest, highest = (_attribute(file, name) for name in ATTRIBUTES)
    if env_id is not None and not (isinstance(env_id, str) and env_id):
        raise origin.wrong("env_id", "the id of an environment", env_id)
    return env_id, reference_pair(lowest, highest, origin, ("ref_min_score", "ref_max_score"))


def _attribute(file: h5py.File, name: str) -> Any:
    """An attribute as a plain value, whatever type its writer chose; None where there is none."""
    value = file.attrs.get(name)
    if isinstance(value, np.generic | np.ndarray) and value.size == 1:
        value = value.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The file, unpacked first where it is gzipped as a whole; what h5py cannot read is a DataError."""
    if not path.is_file():
        raise DataError(f"expected a D4RL HDF5 file at {path}, found none; check the path")
    with path.open("rb") as raw:
        start = raw.read(2)
    if start[:1] == b"\x80" or path.suffix in (".pkl", ".pickle"):
        raise DataError(
            f"expected an HDF5 file at {path}, found a pickle, which is never opened here because it can run code; "
            "use D4RL's own .hdf5 of the set"
        )
    try:
        if start != b"\x1f\x8b":
            with h5py.File(path, "r") as file:
                yield file
            return
        with tempfile.TemporaryFile() as unpacked:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, unpacked)
            with h5py.File(unpacked, "r") as file:
                yield file
    except (OSError, EOFError, RuntimeError, MemoryError) as error:  # h5py: "truncated file", a damaged chunk, ...
        raise DataError(f"expected an HDF5 file at {path}, found a damaged one ({error}); copy it again") from error


def _stored(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """The arrays of the schema that the file has, their shapes checked."""
    needed = ("observations", "actions", "rewards", "terminals")
    stored = {name: values for name in DIMENSIONS if isinstance(values := file.get(name), h5py.Dataset)}
    missing = [name for name in needed if name not in stored]
    if missing:
        names = sorted(str(name) for name in file)
        inside = names[:6]
        is_minari = any(name.startswith("episode_") for name in names)
        hint = "; these are a Minari dataset's data: pass its id" if is_minari else ""
        raise DataError(
            f"expected the arrays {', '.join(needed)} in {path}, missing: {', '.join(missing)} (found "
            f"{', '.join(inside) or 'nothing'}){hint}"
        )
    steps = stored["observations"].shape[0] if stored["observations"].ndim else 0
    for name, values in stored.items():
        shape = _squeezed(values.shape, DIMENSIONS[name])
        if len(shape) != DIMENSIONS[name] or shape[0] != steps:
            expected = f"{DIMENSIONS[name]} dimension(s) of {steps} steps"
            raise DataError(f"expected {name} with {expected} in {path}, found shape {values.shape}; check the writer")
    following = stored.get("next_observations")
    if following is not None and following.shape != stored["observations"].shape:
        found = following.shape
        raise DataError(f"expected next_observations shaped as observations in {path}, found {found}; check the writer")
    return stored


def _squeezed(shape: tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    """Without the trailing axes of one that some writers keep."""
    while len(shape) > dimensions and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _numbers(
    stored: h5py.Dataset, name: str, path: Path, dtype: type[np.floating] | None, rows: slice = slice(None)
) -> Float[np.ndarray, ...]:
    """Some rows of an array, converted while they are read, finite."""
    if not np.issubdtype(stored.dtype, np.number) or np.issubdtype(stored.dtype, np.complexfloating):
        raise DataError(f"expected finite numbers in {name} of {path}, found {stored.dtype} (text?); repair it")
    floats = np.issubdtype(stored.dtype, np.floating)
    values = stored.astype(dtype or (stored.dtype if floats else np.float32))[rows]
    if not np.isfinite(values).all():
        raise DataError(f"expected finite numbers in {name} of {path}, found NaN or infinity; repair it")
    return values.reshape(_squeezed(values.shape, DIMENSIONS[name]))


def _flags(stored: h5py.Dataset, name: str, path: Path) -> Bool[np.ndarray, " n"]:
    """An array of flags, whatever type its writer chose."""
    values = stored[()].reshape(-1)
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise DataError(f"expected flags (0 or 1) in {name} of {path}, found other values ({values.dtype}); repair it")
    return values.astype(bool)


def episode_ends(
    terminals: Bool[np.ndarray, " n"], timeouts: Bool[np.ndarray, " n"] | None, longest: int = STEPS_WITHOUT_TIMEOUTS
) -> Int[np.ndarray, " episodes"]:
    """Index of the last step of each complete episode."""
    if timeouts is not None:
        return np.flatnonzero(terminals | timeouts)
    ends, start = [], 0
    for terminal in [*np.flatnonzero(terminals), len(terminals)]:
        ends.extend(range(start + longest - 1, int(terminal), longest))
        if terminal < len(terminals):
            ends.append(int(terminal))
            start = int(terminal) + 1
    return np.array(ends, dtype=np.int64)


def _last_observations(
    stored: h5py.Dataset, observations: Float[np.ndarray, "n state"], ends: Int[np.ndarray, " episodes"], path: Path
) -> tuple[Float[np.ndarray, "episodes state"], list[str]]:
    """The state after the last action of each episode; remarks where states do not continue inside episodes."""
    last = [observations[:0]]
    breaks = 0
    for start in range(0, len(observations), BLOCK):
        rows = _numbers(stored, "next_observations", path, observations.dtype.type, slice(start, start + BLOCK))
        inside = np.arange(start, start + len(rows))
        last.append(rows[ends[(ends >= start) & (ends < start + len(rows))] - start])
        inside = inside[~np.isin(inside, ends) & (inside + 1 < len(observations))]
        breaks += int((~np.isclose(rows[inside - start], observations[inside + 1], atol=SAME_STATE).all(-1)).sum())
    remarks = []
    if breaks:
        remarks.append(
            f"{breaks} of {len(observations)} steps do not lead to the next state of their episode: is an end missing "
            "in terminals and timeouts?"
        )
    return np.concatenate(last), remarks


def write_hdf5(
    path: str | Path,
    episodes: Sequence[Episode],
    dtype: type[np.floating] | None = np.float32,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Writes episodes in D4RL's schema (v2: with `next_observations` and `timeouts`), gzip-packed and atomically.

    Args:
        path: The file; one that is there is replaced.
        episodes: What to store.
        dtype: Of the numbers, D4RL's own by default; None keeps what the episodes have.
        attributes: Of the file, from `ATTRIBUTES`; readers of D4RL files ignore them.

    Raises:
        DataError: There is no episode to write, or the folder cannot be written to.
    """
    if not episodes:
        raise DataError("expected at least one episode to write, found none")
    ends = np.cumsum([len(episode.rewards) for episode in episodes]) - 1
    terminals, timeouts = np.zeros(ends[-1] + 1, bool), np.zeros(ends[-1] + 1, bool)
    terminals[ends] = [episode.terminated for episode in episodes]
    timeouts[ends] = [episode.timed_out for episode in episodes]
    following = [part for e in episodes for part in (e.observations[1:], e.last_observation[None])]
    arrays: dict[str, Float[np.ndarray, "n ..."] | Bool[np.ndarray, " n"]] = {
        "observations": np.concatenate([e.observations for e in episodes], dtype=dtype),
        "actions": np.concatenate([e.actions for e in episodes], dtype=dtype),
        "rewards": np.concatenate([e.rewards for e in episodes], dtype=dtype),
        "next_observations": np.concatenate(following, dtype=dtype),
        "terminals": terminals,
        "timeouts": timeouts,
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w") as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=values, compression="gzip", shuffle=True)
            file.attrs.update({name: value for name, value in (attributes or {}).items() if value is not None})
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"expected a place to write {path}, found {error}; choose another") from error
    finally:
        temporary.unlink(missing_ok=True)
