"""Decision Transformers as control agents: a checked model with its facts, and two ways to act with it.

A Hugging Face `DecisionTransformerModel` predicts an action from (return-to-go, state, action) tokens, three a step.
Its `forward` cannot use a KV cache (it swallows one in silence), so `IncrementalAgent` drives the inner
encoder step by step, which equals re-encoding the whole history; that is where a memory is attached. `WindowAgent`
re-encodes the newest K steps each time, as the reference evaluates. Both act for a batch of environments that started
together. What the weights do not say (environment, state statistics, return scale, K) lies beside them in control.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from modalities.control.encoder import StepEncoder
from modalities.control.facts import FACTS_FILE, ControlFacts, StateStatistics, find_checkpoint
from modalities.control.weights import import_transformers, load_decision_transformer, native_window, read_config
from modalities.huggingface.attach import cache_argument, cache_of
from namm.errors import CheckpointError, ConfigError
from namm.memory import Memory
from namm.typed import read_json

if TYPE_CHECKING:
    from transformers import DecisionTransformerModel

__all__ = [
    "FACTS_FILE",
    "ControlFacts",
    "ControlModel",
    "IncrementalAgent",
    "StateStatistics",
    "WindowAgent",
    "find_checkpoint",
    "import_transformers",
]


class ControlModel:
    """A Decision Transformer with its facts; use `ControlModel.load`.

    Attributes:
        model: The stock `DecisionTransformerModel` in eval mode. Attach a memory to `model.encoder`.
        facts: Environment, state statistics, return scale, native window.
        assumed: Names of the facts that nothing says and that are a usual value.
    """

    def __init__(self, model: DecisionTransformerModel, facts: ControlFacts, assumed: Sequence[str] = ()) -> None:
        dimensions = model.config.state_dim
        for name in ("state_mean", "state_std"):
            if len(getattr(facts, name)) != dimensions:
                found = len(getattr(facts, name))
                raise CheckpointError(
                    f"expected a {name} of {dimensions} numbers for this model, found {found}; take the statistics of "
                    "the data that it was trained on"
                )
        if not all(value > 0 for value in facts.state_std):
            raise CheckpointError("expected standard deviations above 0 in state_std; add the floor of 1e-6")
        self.model = model.eval().requires_grad_(False)
        self.facts = facts
        self.assumed = tuple(assumed)
        self.device = next(model.parameters()).device
        self._mean = torch.tensor(facts.state_mean, dtype=torch.float32, device=self.device)
        self._std = torch.tensor(facts.state_std, dtype=torch.float32, device=self.device)

    @classmethod
    def load(
        cls,
        source: str | Path,
        dataset_statistics: StateStatistics | None = None,
        env_id: str | None = None,
        device: str | torch.device = "cpu",
        **facts: Any,
    ) -> ControlModel:
        """Loads a checkpoint without executing anything in it.

        Args:
            source: Local folder, or id on the Hugging Face Hub, with `config.json` and `model.safetensors`.
            dataset_statistics: State statistics; needed where there is no `control.json`, else they replace its.
            env_id: Environment; needed where there is no `control.json`, else it replaces its.
            device: Where the model goes.
            **facts: Other fields of `ControlFacts` to set or replace, such as `return_scale`. Without `control.json`
                the native window (`context_steps`) is what config.json says, else 20 steps.

        Raises:
            CheckpointError: A file is missing, truncated, of another model, or holds NaN; or facts are missing.
        """
        folder = find_checkpoint(source)
        given = dict(facts)
        if env_id is not None:
            given["env_id"] = env_id
        if dataset_statistics is not None:
            given["state_mean"] = tuple(float(value) for value in dataset_statistics.mean)
            given["state_std"] = tuple(float(value) for value in dataset_statistics.std)
        if (folder / FACTS_FILE).is_file():
            stored = ControlFacts.from_json(folder / FACTS_FILE)
            said = {*given, *read_json(folder / FACTS_FILE)}
            if given.get("env_id", stored.env_id) != stored.env_id:
                given.setdefault("env_kwargs", {})  # the stored arguments belong to the checkpoint's own environment
            loaded = replace(stored, **given)
        elif missing := {"env_id", "state_mean", "state_std"} - given.keys():
            raise CheckpointError(
                f"expected {FACTS_FILE} in {source}, found none, so {sorted(missing)} must be given: pass the "
                "environment's id and the state statistics of the model's training data (`--env` and `--dataset`)"
            )
        else:
            loaded = ControlFacts(**{"context_steps": native_window(folder), **given})
            said = {*given, *(["context_steps"] if "max_length" in read_config(folder) else [])}
        assumed = [name for name in ("return_scale", "context_steps") if name not in said]
        model = load_decision_transformer(folder)
        model.to(device)  # pyright: ignore[reportArgumentType]  (transformers' wrapper hides what it takes)
        return cls(model, loaded, assumed)

    def check_environment(self, env: Any) -> None:
        """Raises ConfigError unless observation and action space of a Gymnasium environment fit the model."""
        spaces = ("observation", env.observation_space, "state_dim"), ("action", env.action_space, "act_dim")
        for kind, space, name in spaces:
            expected, shape = getattr(self.model.config, name), getattr(space, "shape", None)
            if shape != (expected,) or not np.issubdtype(space.dtype, np.floating):
                env_id = env.spec.id if getattr(env, "spec", None) is not None else type(env).__name__
                raise ConfigError(
                    f"expected an environment with {kind}s of {expected} numbers ({name} of the checkpoint), found "
                    f"{shape} in {env_id}; choose the checkpoint's environment ({self.facts.env_id}) or another one"
                )

    @property
    def state_dim(self) -> int:
        """Width of a state."""
        return int(self.model.config.state_dim)

    @property
    def action_dim(self) -> int:
        """Width of an action."""
        return int(self.model.config.act_dim)

    @property
    def longest_episode(self) -> int:
        """Rows of the timestep table: no step beyond it can be embedded."""
        return int(self.model.config.max_ep_len)

    def whiten(self, states: Float[Tensor, "batch state"]) -> Float[Tensor, "batch state"]:
        """Raw states of the environment, in the model's units."""
        return (states.to(self.device, torch.float32) - self._mean) / self._std

    def scale(self, returns_to_go: Float[Tensor, " batch"]) -> Float[Tensor, "batch 1"]:
        """Raw returns-to-go, in the model's units."""
        return returns_to_go.to(self.device, torch.float32)[:, None] / self.facts.return_scale

    def check_timesteps(self, timesteps: Int[Tensor, " batch"]) -> None:
        """Raises ConfigError for a step that the timestep table cannot embed."""
        if int(timesteps.max()) >= self.longest_episode:
            raise ConfigError(
                f"expected episodes of at most {self.longest_episode} steps (max_ep_len of the checkpoint), found step "
                f"{int(timesteps.max())}; limit the environment or train with a larger max_ep_len"
            )


class WindowAgent:
    """Acts on the newest K steps, re-encoded from scratch each time and padded on the left: the reference's evaluation.

    Args:
        control: The model and its facts.
        context_steps: K; None takes the native window of the checkpoint.

    Raises:
        ConfigError: The checkpoint has no native window and none is given.
    """

    def __init__(self, control: ControlModel, context_steps: int | None = None) -> None:
        steps = context_steps or control.facts.context_steps
        if steps is None or steps < 1:
            raise ConfigError(
                f"expected context_steps of 1 or more, found {steps}; the checkpoint has no native window"
            )
        self.control, self.context_steps = control, steps

    def reset(self, batch: int) -> None:
        """Forgets everything; `batch` episodes start."""
        control, steps, device = self.control, self.context_steps, self.control.device
        self.states = torch.zeros(batch, steps, control.state_dim, device=device)
        self.actions = torch.zeros(batch, steps, control.action_dim, device=device)
        self.returns_to_go = torch.zeros(batch, steps, 1, device=device)
        self.timesteps = torch.zeros(batch, steps, dtype=torch.long, device=device)
        self.mask = torch.zeros(batch, steps, dtype=torch.long, device=device)

    @torch.no_grad()
    def act(
        self,
        states: Float[Tensor, "batch state"],
        returns_to_go: Float[Tensor, " batch"],
        timesteps: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch action"]:
        """Actions for one step of every live episode; states and returns-to-go in the environment's units."""
        self.control.check_timesteps(timesteps)
        for name, newest in (
            ("states", self.control.whiten(states)),
            ("actions", torch.zeros_like(self.actions[:, 0])),
            ("returns_to_go", self.control.scale(returns_to_go)),
            ("timesteps", timesteps.to(self.control.device)),
            ("mask", torch.ones_like(self.mask[:, 0])),
        ):
            setattr(self, name, torch.cat([getattr(self, name)[:, 1:], newest[:, None]], dim=1))
        actions = self.control.model(
            states=self.states,
            actions=self.actions,
            returns_to_go=self.returns_to_go,
            timesteps=self.timesteps,
            attention_mask=self.mask,
        ).action_preds[:, -1]
        self.actions[:, -1] = actions
        return actions

    def split(self, sizes: Sequence[int]) -> list[WindowAgent]:
        """Forgets everything; agents for consecutive parts of a new batch."""
        agents: list[WindowAgent] = [copy(self) for _ in sizes]
        for agent, size in zip(agents, sizes, strict=True):
            agent.reset(size)
        return agents

    def drop(self, indices_to_keep: Int[Tensor, " kept"]) -> None:
        """Keeps only these rows of the batch."""
        for name in ("states", "actions", "returns_to_go", "timesteps", "mask"):
            setattr(self, name, getattr(self, name)[indices_to_keep])


class IncrementalAgent:
    """Acts with a growing KV cache: step 0 feeds [R_0, s_0], step t feeds [a_{t-1}, R_t, s_t].

    With the default cache this equals re-encoding the whole history. To act with a memory, run it inside
    `with attach(control.model.encoder, policy) as memory:` and pass that memory. The stock encoder is then stepped
    directly on it (`StepEncoder`); any other runs through what is attached.

    Args:
        control: The model and its facts.
        cache: Makes the transformers `Cache` of a batch; None makes a `DynamicCache`.
        memory: The attached memory, made to forget on `reset` already and not only at the first `act` after it.
    """

    def __init__(
        self, control: ControlModel, cache: Callable[[], Any] | None = None, memory: Memory | None = None
    ) -> None:
        self.control, self.memory = control, memory
        self.make_cache = cache or import_transformers().DynamicCache
        self.cache_name = cache_argument(control.model.encoder)
        self.stepper = None if memory is None else StepEncoder.of(control.model.encoder)

    def reset(self, batch: int) -> None:
        """Forgets everything; `batch` episodes start."""
        self.cache = self.make_cache()
        self.previous: Tensor | None = None
        if self.memory is not None:
            self.memory.reset()

    def split(self, sizes: Sequence[int]) -> list[IncrementalAgent]:
        """Forgets everything; agents for consecutive parts of a new batch, or one for all of it.

        An encoder that runs through what is attached to it has one memory, whose batch cannot be split.
        """
        if self.memory is not None and self.stepper is None:
            self.reset(sum(sizes))
            return [self]
        agents: list[IncrementalAgent] = [copy(self) for _ in sizes]
        if self.memory is not None:
            for agent, part in zip(agents, self.memory.split(sizes), strict=True):
                agent.memory = part
        for agent, size in zip(agents, sizes, strict=True):
            agent.reset(size)
        return agents

    @torch.inference_mode()
    def act(
        self,
        states: Float[Tensor, "batch state"],
        returns_to_go: Float[Tensor, " batch"],
        timesteps: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch action"]:
        """Actions for one step of every live episode; states and returns-to-go in the environment's units."""
        self.control.check_timesteps(timesteps)
        model = self.control.model
        timesteps = timesteps.to(self.control.device)
        time = model.embed_timestep(timesteps)  # [batch, width]
        tokens = [model.embed_return(self.control.scale(returns_to_go)) + time]
        tokens.append(model.embed_state(self.control.whiten(states)) + time)
        if self.previous is not None:  # the last action carries the time of its own step
            tokens.insert(0, model.embed_action(self.previous) + model.embed_timestep(timesteps - 1))
        embedded = model.embed_ln(torch.stack(tokens, dim=1))  # [batch, 2 or 3, width]
        if self.memory is not None and self.stepper is not None:
            newest = self.stepper(embedded, self.memory)
        else:
            newest = self._through_transformers(embedded)
        action: Tensor = model.predict_action(newest)
        self.previous = action
        return action

    def _through_transformers(self, embedded: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch width"]:
        encoder = self.control.model.encoder
        output = encoder(
            inputs_embeds=embedded,
            # the outer model always passes zeros: wpe[0] is a constant bias, and time is in the embeddings
            position_ids=torch.zeros(embedded.shape[:2], dtype=torch.long, device=embedded.device),
            use_cache=True,
            **{self.cache_name: self.cache},
        )
        self.cache = cache_of(output)  # an attached encoder gives back its memory's cache: passing it continues
        return output.last_hidden_state[:, -1]

    def drop(self, indices_to_keep: Int[Tensor, " kept"]) -> None:
        """Keeps only these rows of the batch."""
        if self.previous is None:
            return
        self.previous = self.previous[indices_to_keep]
        if self.memory is not None and self.stepper is not None:
            self.memory.select_sequences(indices_to_keep)
        else:
            self.cache.batch_select_indices(indices_to_keep)  # an attached memory loses the same rows
