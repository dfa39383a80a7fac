"""An animation of one episode, made after the fact by playing its recorded actions again.

A simulator that is reset with the same seed and given the same actions does the same, so nothing has to be filmed while
policies are measured, and the return of the replay must equal the recorded one (it is checked). MuJoCo bodies are drawn
from the simulator's own geometry as a side view: this needs no OpenGL, which machines without a display often lack.
Below the scene lies the memory: one column a token, bright where layers and heads still hold it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from evaluations.rows.results import Row
from modalities.control.rollout import Agent, SplittableAgent
from namm.errors import DataError
from namm.files import write_atomically

WIDTH, SCENE, STRIP = 640, 260, 64
SKY, GROUND, BODY, TEXT = (246, 247, 249), (205, 209, 214), (224, 115, 15), (45, 50, 56)
CAPSULE, SPHERE = 3, 2
PIXELS_PER_METRE = 120.0


class ActionRecorder:
    """An agent that passes everything on and remembers the actions of one episode.

    Args:
        agent: Who acts.
        episode: Index of the episode in the batch; None records nothing.
    """

    def __init__(self, agent: Agent, episode: int | None) -> None:
        self.agent, self.episode = agent, episode
        self._row = episode
        self._recorded: list[np.ndarray] = []
        self._lanes: list[ActionRecorder] = []

    def reset(self, batch: int) -> None:
        """See Agent."""
        self._recorded, self._row, self._lanes = [], self.episode, []
        self.agent.reset(batch)

    def split(self, sizes: Sequence[int]) -> list[ActionRecorder]:
        """See SplittableAgent; the lane that has the episode records it."""
        agents = self.agent.split(sizes) if isinstance(self.agent, SplittableAgent) else [self.agent]
        if len(agents) == 1:
            self.reset(sum(sizes))
            return [self]
        self._lanes, first = [], 0
        for agent, size in zip(agents, sizes, strict=True):
            row = None if self.episode is None else self.episode - first
            self._lanes.append(ActionRecorder(agent, row if row is not None and 0 <= row < size else None))
            first += size
        return self._lanes

    def act(
        self,
        states: Float[Tensor, "batch state"],
        returns_to_go: Float[Tensor, " batch"],
        timesteps: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch action"]:
        """See Agent."""
        actions = self.agent.act(states, returns_to_go, timesteps)
        if self._row is not None:
            self._recorded.append(actions[self._row].cpu().numpy().copy())
        return actions

    def drop(self, indices_to_keep: Int[Tensor, " kept"]) -> None:
        """See Agent."""
        kept = indices_to_keep.tolist()
        self._row = kept.index(self._row) if self._row in kept else None
        self.agent.drop(indices_to_keep)

    def actions(self) -> Float[np.ndarray, "steps action"]:
        """What the episode did."""
        for lane in self._lanes:
            if lane.episode is not None:
                return lane.actions()
        return np.stack(self._recorded).astype(np.float32)


def encode_actions(actions: Float[np.ndarray, "steps action"]) -> str:
    """Actions as text that gives back exactly the same float32 numbers."""
    return base64.b64encode(np.ascontiguousarray(actions, dtype="<f4").tobytes()).decode()


def decode_actions(text: str, size: int) -> Float[np.ndarray, "steps action"]:
    """The inverse of `encode_actions`; `size` is the number of action dimensions."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").reshape(-1, size)


def animate(row: Row, env_kwargs: Mapping[str, Any], path: Path, frames: int = 50) -> Path:
    """Writes a GIF of the traced episode of a row.

    Args:
        row: A row with a trace.
        env_kwargs: Arguments of the environment beside its id (`row["task"]` is a name for people).
        path: Where the GIF goes.
        frames: Frames to show; an episode of more steps is shown with equal gaps.

    Returns:
        `path`.

    Raises:
        DataError: If the replay's return is not the recorded one, so that the film would show another episode, or the
            environment draws no pictures.
    """
    trace = row["trace"]
    actions = decode_actions(trace["actions"], trace["action_size"])
    recorded = next(e["return"] for e in row["episodes"] if e["reset_seed"] == trace["reset_seed"])
    every = max(1, -(-len(actions) // frames))
    images, total = [], 0.0
    for step, scene, total in _play(row["identity"]["env_id"], env_kwargs, trace["reset_seed"], actions, every):
        images.append(_frame(scene, row, step, total))
    if abs(total - recorded) > 1e-3 * max(1.0, abs(recorded)):
        raise DataError(
            f"The replay of {row['target']} / {row['policy']} must return {recorded:.3f} as recorded, found "
            f"{total:.3f}; "
            "the simulator is not the one the row was made with."
        )
    palette = images[len(images) // 2].quantize(96)
    flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    film, times = io.BytesIO(), [100] * (len(flat) - 1) + [1500]
    flat[0].save(film, format="GIF", save_all=True, append_images=flat[1:], duration=times, loop=0)
    write_atomically(path, film.getvalue())
    return path


def _play(
    env_id: str, env_kwargs: Mapping[str, Any], seed: int, actions: Float[np.ndarray, "steps action"], every: int
) -> Iterator[tuple[int, Image.Image, float]]:
    """Yields (step, picture, return so far) at every so many steps and at the end."""
    environment = gym.make(env_id, **_render_mode(env_id, env_kwargs), **env_kwargs)
    space: Any = environment.action_space  # a Box: only continuous actions are played
    try:
        environment.reset(seed=seed)
        total = 0.0
        for step, action in enumerate(actions):
            if step % every == 0:
                yield step, _scene(environment), total
            _, reward, *_ = environment.step(np.clip(action, space.low, space.high).astype(space.dtype))
            total += float(reward)
        yield len(actions), _scene(environment), total
    finally:
        environment.close()


def _render_mode(env_id: str, env_kwargs: Mapping[str, Any]) -> dict[str, str]:
    """How the environment is asked for pictures; not at all where they are drawn here.

    Raises:
        DataError: It draws none.
    """
    environment = gym.make(env_id, **env_kwargs)
    try:
        base = environment.unwrapped
        modes = base.metadata.get("render_modes") or ()
        if _needs_opengl(base):
            return {}
    finally:
        environment.close()
    if "rgb_array" not in modes:
        raise DataError(f"{env_id} has no render mode rgb_array ({', '.join(map(str, modes)) or 'it has none'})")
    return {"render_mode": "rgb_array"}


def _needs_opengl(base: gym.Env) -> bool:
    """A MuJoCo robot that does not say that it draws its pictures by itself."""
    return hasattr(base, "data") and hasattr(base, "model") and not base.metadata.get("draws_without_opengl")


def _scene(environment: gym.Env) -> Image.Image:
    base: Any = environment.unwrapped
    if _needs_opengl(base):
        return _side_view(base.model, base.data)
    picture: Any = environment.render()
    if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        found = f"an array of shape {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise DataError(f"expected a picture [height, width, 3] of the environment's render(), found {found}")
    image = Image.fromarray(picture.astype(np.uint8))
    return image.resize((WIDTH, round(image.height * WIDTH / image.width)))


def _side_view(model: Any, data: Any) -> Image.Image:
    """Capsules and spheres projected on the x-z plane, the view following the first body."""
    scale = 2  # drawn twice as large and shrunk: smooth edges
    image = Image.new("RGB", (WIDTH * scale, SCENE * scale), SKY)
    draw = ImageDraw.Draw(image)
    centre = float(data.xpos[1][0])
    metre = PIXELS_PER_METRE * scale
    floor = (SCENE - 30) * scale

    def place(x: float, z: float) -> tuple[float, float]:
        return (x - centre) * metre + WIDTH * scale / 2, floor - z * metre

    draw.rectangle((0, floor, WIDTH * scale, SCENE * scale), fill=GROUND)
    for index, kind in enumerate(model.geom_type):
        if kind not in (CAPSULE, SPHERE):
            continue
        radius = float(model.geom_size[index][0])
        half = float(model.geom_size[index][1]) if kind == CAPSULE else 0.0
        axis = data.geom_xmat[index].reshape(3, 3)[:, 2]
        x, _, z = data.geom_xpos[index]
        ends = [place(x + side * half * axis[0], z + side * half * axis[2]) for side in (-1, 1)]
        draw.line([*ends[0], *ends[1]], fill=BODY, width=max(2, round(2 * radius * metre)))
        for px, py in ends:
            r = radius * metre
            draw.ellipse((px - r, py - r, px + r, py + r), fill=BODY)
    image = image.reduce(scale)
    draw = ImageDraw.Draw(image)
    for mark in range(int(centre) - 3, int(centre) + 4):
        x, z = place(float(mark), 0.0)
        draw.line((x / scale, z / scale, x / scale, z / scale + 10), fill=TEXT)
        draw.text((x / scale + 4, z / scale + 8), f"{mark} m", fill=TEXT, font=_font(11))
    return image


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _frame(scene: Image.Image, row: Row, step: int, total: float) -> Image.Image:
    trace = row["trace"]
    image = Image.new("RGB", (WIDTH, scene.height + STRIP), SKY)
    image.paste(scene, (0, 0))
    draw = ImageDraw.Draw(image)
    now = max((i for i, sampled in enumerate(trace["steps"]) if sampled <= step), default=0)
    slots = trace["slots"][now] if trace["slots"] else float("nan")
    caption = f"{row['policy']}   step {step}   return {total:.1f}   {slots:.0f} of {3 * step + 2} tokens held"
    top = scene.height
    draw.text((8, top + 4), caption, fill=TEXT, font=_font(14))
    survival = trace.get("survival") or []
    if survival:
        times = trace.get("survival_steps") or trace["steps"]
        sample = max((i for i, sampled in enumerate(times) if sampled <= step), default=0)
        held = np.array(survival[sample], dtype=float) / 100.0
        seen = np.arange(len(held)) * trace["tokens_per_bin"] <= 3 * step + 1
        low, high = np.array([38.0, 44.0, 70.0]), np.array([253.0, 190.0, 70.0])
        colours = np.where(seen[:, None], low + held[:, None] * (high - low), np.array(SKY, dtype=float))
        strip = Image.fromarray(colours.astype(np.uint8)[None]).resize(
            (WIDTH - 16, STRIP - 34), Image.Resampling.NEAREST
        )
        image.paste(strip, (8, top + 26))
    return image
