"""A Reacher that must remember where to go: MuJoCo's two-joint arm, and a goal that is shown for three steps only.

The arm of Gymnasium's Reacher-v5 waits, folded. At a random time one of eight goals on a circle is shown for three
steps; before and after it, other goals of the circle are shown on a second channel and mean nothing. Later a go signal
comes on, and 40 steps after it the fingertip must rest within 5 cm of the goal: less than half the distance between two
goals, so a policy that has lost the goal succeeds once in eight at most. The reward is paid at the end alone, since a
distance told earlier would give away the hidden goal. The scripted expert does the same for all goals until the signal.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv
from jaxtyping import Float, UInt8

from namm.errors import ConfigError

ENV_ID = "RememberedReacher-v0"

GOALS = 8
"""Possible goals; a policy that has forgotten which one it was succeeds in 1 / GOALS of the episodes at most."""
GOAL_RADIUS = 0.15
"""Distance of the goals from the arm's base, metres."""
TOLERANCE = 0.05
"""Success: the fingertip ends nearer than this to the goal, metres (two goals are 0.115 apart)."""
SHOWN_STEPS = 3
"""Steps that the goal, and each decoy, is shown for."""
DECOYS = 4
"""Decoys of an episode."""
REACH_STEPS = 40
"""Steps from the go signal to the end."""
EARLIEST_CUE = 5
"""First step at which the goal can appear."""
LATEST_CUE = 0.4
"""Last step at which the goal can appear, as a share of `wait_steps`."""
EARLIEST_GO = 0.8
"""First step at which the go signal can come, as a share of `wait_steps`."""
UPPER_ARM, FOREARM = 0.1, 0.11
"""Lengths from base to elbow and from elbow to fingertip, metres (reacher.xml)."""
FOLDED = 2.6
"""Angle of the elbow while waiting, radians."""
SPEED_SCALE = 0.1
"""Joint velocities (radians a second) are seen times this."""
STATE_NAMES = (
    *("cos_shoulder", "sin_shoulder", "cos_elbow", "sin_elbow", "shoulder_velocity", "elbow_velocity"),
    *("fingertip_x", "fingertip_y", "goal_x", "goal_y", "decoy_x", "decoy_y", "go"),
)


class RememberedReacher(ReacherEnv):
    """The task as a Gymnasium environment, registered as `RememberedReacher-v0`.

    Observation (13): cosine and sine of both joints, their velocities (times 0.1), the fingertip's place, the goal and
    the decoy that are shown (places over `GOAL_RADIUS`; zeros where none is shown), and 1 from the go signal on. Action
    (2): the torques of Reacher-v5 in [-1, 1]. Reward: 1 at the last step on success, else 0. An episode is truncated
    `REACH_STEPS` after the go signal. `info` holds success, distance (metres, fingertip to goal), goal (0 to 7),
    go_step, and cue_steps, cue_repeats and asked_steps (see evaluations/control/cues.py); `reset(options={"goal": 3})`
    fixes the goal.

    Args:
        wait_steps: The go signal comes at a uniformly drawn step between 0.8 and 1 times this, the goal between step 5
            and 0.4 times this; 40 or more.
        render_mode: None or "rgb_array".

    Raises:
        ConfigError: `wait_steps` is less than 40.
    """

    # a variable of class and instance alike, as gym.Env declares it
    metadata = {"render_modes": ["rgb_array"], "render_fps": 50, "draws_without_opengl": True}  # noqa: RUF012

    def __init__(self, wait_steps: int = 100, render_mode: str | None = None) -> None:
        if wait_steps < 40:
            raise ConfigError(f"expected wait_steps of 40 or more, found {wait_steps}; wait longer")
        self.wait_steps = wait_steps
        super().__init__()
        # the parent's list names modes that need OpenGL; here a picture is drawn from the simulator's geometry
        self.metadata = type(self).metadata
        self.render_mode = render_mode
        high = np.array([1, 1, 1, 1, np.inf, np.inf, 2, 2, 1, 1, 1, 1, 1], dtype=np.float32)
        self.observation_space = gym.spaces.Box(-high, high, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, " state"], dict[str, Any]]:
        """Starts a new episode; everything random in it is drawn here."""
        self.fixed_goal = (options or {}).get("goal")
        state, _ = super().reset(seed=seed)
        return state, self._facts(success=False)

    def reset_model(self) -> Float[np.ndarray, " state"]:
        """Draws the goal, the decoys and their times, and folds the arm."""
        random = self.np_random
        drawn = int(random.integers(GOALS))
        self.goal_index = drawn if self.fixed_goal is None else int(self.fixed_goal)
        self.cue_start = int(random.integers(EARLIEST_CUE, round(LATEST_CUE * self.wait_steps) + 1))
        self.go_step = int(random.integers(round(EARLIEST_GO * self.wait_steps), self.wait_steps + 1))
        places = [
            s for s in range(0, self.go_step - SHOWN_STEPS, SHOWN_STEPS) if abs(s - self.cue_start) >= SHOWN_STEPS
        ]
        self.decoys = np.full(self.go_step, -1)
        for start in random.choice(places, size=DECOYS, replace=False):
            self.decoys[start : start + SHOWN_STEPS] = random.integers(GOALS)
        self.steps = 0
        joints = np.array([0.0, FOLDED]) + random.uniform(-0.1, 0.1, size=2)
        self.set_state(np.concatenate([joints, goal_place(self.goal_index)]), np.zeros(self.model.nv))
        return self._get_obs()

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]  (ReacherEnv's is inferred to be never over)
        self, action: Float[np.ndarray, " action"]
    ) -> tuple[Float[np.ndarray, " state"], float, bool, bool, dict[str, Any]]:
        """Applies the torques for one step."""
        self.do_simulation(np.clip(action, -1.0, 1.0), self.frame_skip)
        self.steps += 1
        over = self.steps >= self.go_step + REACH_STEPS
        success = over and self._distance() < TOLERANCE
        return self._get_obs(), float(success), False, over, self._facts(success)

    def render(self) -> UInt8[np.ndarray, "height width 3"] | None:
        """A view from above: arm, goal circle, what is shown now, and the go lamp."""
        return None if self.render_mode is None else _picture(self)

    def shown(self) -> tuple[int | None, int | None]:
        """The goal and the decoy that are shown at the present step."""
        goal = self.goal_index if 0 <= self.steps - self.cue_start < SHOWN_STEPS else None
        decoy = int(self.decoys[self.steps]) if self.steps < self.go_step else -1
        return goal, decoy if decoy >= 0 else None

    def _distance(self) -> float:
        return float(np.linalg.norm(self.get_body_com("fingertip")[:2] - goal_place(self.goal_index)))

    def _facts(self, success: bool) -> dict[str, Any]:
        return {
            "success": bool(success),
            "distance": self._distance(),
            "goal": self.goal_index,
            "cue_steps": list(range(self.cue_start, self.cue_start + SHOWN_STEPS)),
            "cue_repeats": SHOWN_STEPS,
            "asked_steps": [self.go_step] * SHOWN_STEPS,
            "go_step": self.go_step,
        }

    def _get_obs(self) -> Float[np.ndarray, " state"]:
        joints, speeds = self.data.qpos[:2], self.data.qvel[:2]
        shown = [np.zeros(2) if index is None else goal_place(index) / GOAL_RADIUS for index in self.shown()]
        tip = self.get_body_com("fingertip")[:2] / GOAL_RADIUS
        go = [float(self.steps >= self.go_step)]
        turns = [np.cos(joints[0]), np.sin(joints[0]), np.cos(joints[1]), np.sin(joints[1])]
        return np.concatenate([turns, speeds * SPEED_SCALE, tip, *shown, go]).astype(np.float32)


def goal_place(index: int) -> Float[np.ndarray, " 2"]:
    """Place of a goal in metres. None lies so that the arm would have to turn by exactly half a circle."""
    angle = 2 * np.pi * (index + 0.5) / GOALS + _BEND
    return GOAL_RADIUS * np.array([np.cos(angle), np.sin(angle)])


ELBOW = float(np.arccos((GOAL_RADIUS**2 - UPPER_ARM**2 - FOREARM**2) / (2 * UPPER_ARM * FOREARM)))
"""Angle of the elbow at which the fingertip is `GOAL_RADIUS` from the base, radians."""
_BEND = float(np.arctan2(FOREARM * np.sin(ELBOW), UPPER_ARM + FOREARM * np.cos(ELBOW)))
"""Direction of the fingertip minus angle of the shoulder, at that elbow."""


class ScriptedExpert:
    """Waits folded, remembers the goal it is shown, and after the go signal turns to it: inverse kinematics and PD.

    Its action depends on the goal only once the signal has come. It has seen no goal: it stays folded.
    """

    STIFFNESS, DAMPING = 0.32, 0.075
    """Torque per radian and per radian a second: critically damped, about 0.125 s."""

    def __init__(self) -> None:
        self.shoulder: float | None = None

    def reset(self) -> None:
        """Forgets the goal."""
        self.shoulder = None

    def act(self, state: Float[np.ndarray, " state"]) -> Float[np.ndarray, " action"]:
        """Torques for the observation of one step; call it once a step, in order."""
        goal, go = state[8:10], bool(state[12] > 0.5)
        if np.any(goal):
            self.shoulder = float(np.arctan2(goal[1], goal[0])) - _BEND
        reaches = go and self.shoulder is not None
        wanted = np.array([self.shoulder, ELBOW] if reaches else [0.0, FOLDED])
        joints = np.array([np.arctan2(state[1], state[0]), np.arctan2(state[3], state[2])])
        error = wanted - joints
        error[0] = (error[0] + np.pi) % (2 * np.pi) - np.pi  # the shoulder turns the short way round
        torque = self.STIFFNESS * error - self.DAMPING * state[4:6] / SPEED_SCALE
        return np.clip(torque, -1.0, 1.0).astype(np.float32)


def _picture(env: RememberedReacher) -> UInt8[np.ndarray, "height width 3"]:
    from PIL import Image, ImageDraw

    width, height, scale = 640, 320, 700.0
    image = Image.new("RGB", (width, height), (246, 247, 249))
    draw = ImageDraw.Draw(image)

    def place(point: Float[np.ndarray, " 2"]) -> tuple[float, float]:
        return width / 2 + scale * float(point[0]), height / 2 - scale * float(point[1])

    def dot(point: Float[np.ndarray, " 2"], radius: float, **colours: Any) -> None:
        x, y = place(point)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), **colours)

    goal, decoy = env.shown()
    for index in range(GOALS):
        dot(goal_place(index), 9, outline=(150, 155, 160))
    dot(goal_place(env.goal_index), TOLERANCE * scale, outline=(140, 210, 140))
    if decoy is not None:
        dot(goal_place(decoy), 9, fill=(200, 60, 160))
    if goal is not None:
        dot(goal_place(goal), 9, fill=(60, 170, 80))
    elbow = env.data.body("body1").xpos[:2]
    tip = env.data.body("fingertip").xpos[:2]
    draw.line([place(np.zeros(2)), place(elbow), place(tip)], fill=(224, 115, 15), width=12, joint="curve")
    dot(np.zeros(2), 9, fill=(120, 125, 130))
    dot(tip, 8, fill=(30, 90, 220))
    lamp = (60, 170, 80) if env.steps >= env.go_step else (190, 193, 198)
    draw.ellipse((16, 16, 40, 40), fill=lamp)
    return np.asarray(image)


def register() -> None:
    """Makes `gymnasium.make("RememberedReacher-v0")` work; calling it again does nothing."""
    if ENV_ID not in gym.registry:
        gym.register(ENV_ID, entry_point="evaluations.tasks.control.remembered_reacher:RememberedReacher")
