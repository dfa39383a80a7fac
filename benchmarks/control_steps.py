"""Environment steps a second of a Decision Transformer on Hopper: `python benchmarks/control_steps.py`.

The base is how transformers' own example evaluates: one environment, the newest K = 20 steps encoded anew for every
action. Against it stand many environments in one batch with a cache that is full, a window, or under the shipped NAMM,
stepped in this process, by simulator processes, and by a worker a core, each with its share of the environments and all
of the work on them, kept tokens padded (`evaluations/rl.py --workers 2 --lanes 1 --store padded`). Ways take turns
within a repetition and what counts are the ratios within one run. Printed beside them: what simulator, matrix products
and agent would allow if every core were always busy, and whether a step stays as fast as an episode gets long.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from processes import spawned

import checkpoints
from modalities.control.agents import ControlModel, IncrementalAgent, WindowAgent
from modalities.control.encoder import affine
from modalities.control.rollout import Rollout, SimulatorPool, make_env, rollout
from namm import NAMM, Memory
from namm.policies import Policy, make_policy
from namm.stores import StoreName

SHIPPED = Path(checkpoints.__file__).parent
HOPPER = SHIPPED / "control" / "hopper-medium-expert"
INTERVAL, PROTECTED, WINDOW = 48, 3, 48
LATENCY_WINDOW = 100


def policies() -> dict[str, Policy | None]:
    """Ways to act; None re-encodes the native window."""
    namm = NAMM.from_pretrained(SHIPPED / "namm" / "text-v1")
    rule = {"interval": INTERVAL, "protected_last": PROTECTED}
    return {
        "re-encode K=20": None,
        "full": make_policy("full"),
        f"window {WINDOW}": make_policy("window", budget=WINDOW, **rule),
        "namm text-v1 (sequence)": make_policy("namm", namm=namm, statistics="sequence", **rule),
        "namm text-v1 (source)": make_policy("namm", namm=namm, statistics="source", **rule),
    }


def example(control: ControlModel, steps: int) -> float:
    """Steps a second the example's way: histories that grow, the newest K steps of them padded and encoded anew."""
    facts, model = control.facts, control.model
    window = facts.context_steps or 20
    mean, std = torch.tensor(facts.state_mean), torch.tensor(facts.state_std)
    env = make_env(facts.env_id, facts.env_kwargs)

    def begin(seed: int) -> None:
        nonlocal states, actions, to_go, timesteps
        states = torch.from_numpy(env.reset(seed=seed)[0]).float().reshape(1, -1)
        actions = torch.zeros(0, control.action_dim)
        to_go = torch.tensor([[(facts.target_return or 3600.0) / facts.return_scale]])
        timesteps = torch.zeros(1, 1, dtype=torch.long)

    states = actions = to_go = timesteps = torch.empty(0)
    begin(0)
    started = time.perf_counter()
    for step in range(steps):
        actions = torch.cat([actions, torch.zeros(1, control.action_dim)])
        recent = [part[-window:][None] for part in ((states - mean) / std, actions, to_go)]
        recent.append(timesteps[:, -window:])
        missing = window - recent[0].shape[1]
        mask = torch.cat([torch.zeros(missing), torch.ones(window - missing)]).long()[None]
        padded = [torch.cat([part.new_zeros(1, missing, *part.shape[2:]), part], dim=1) for part in recent]
        with torch.no_grad():
            output = model(
                states=padded[0],
                actions=padded[1],
                returns_to_go=padded[2],
                timesteps=padded[3],
                attention_mask=mask,
                return_dict=True,
            )
        actions[-1] = output.action_preds[0, -1]
        state, reward, terminated, truncated, _ = env.step(actions[-1].numpy())
        states = torch.cat([states, torch.from_numpy(state).float().reshape(1, -1)])
        to_go = torch.cat([to_go, to_go[-1:] - float(reward) / facts.return_scale])
        timesteps = torch.cat([timesteps, timesteps[:, -1:] + 1], dim=1)
        if terminated or truncated:
            begin(step)
    seconds = time.perf_counter() - started
    env.close()
    return steps / seconds


def play(
    control: ControlModel,
    policy: Policy | None,
    environments: int,
    steps: int,
    simulators: SimulatorPool | int,
    lanes: int = 2,
    store: StoreName = "packed",
) -> tuple[Rollout, float]:
    """A rollout, and the slots per head at its end."""
    memory = None if policy is None else Memory(policy, store=store)
    agent = WindowAgent(control) if memory is None else IncrementalAgent(control, memory=memory)
    target = control.facts.target_return or 3600.0
    seeds = range(environments)
    env_id = control.facts.env_id
    played = rollout(agent, env_id, seeds, target, max_steps=steps, simulators=simulators, lanes=lanes)
    return played, 60.0 if memory is None else float(memory.slots().float().mean())


def _work(connection: Connection, environments: int, steps: int) -> None:
    """A worker's life: it plays the policies that it is told, model and simulators in turns, in one batch."""
    torch.set_num_threads(1)
    control, known = ControlModel.load(HOPPER), policies()
    connection.send(None)
    while (name := connection.recv()) is not None:
        played, slots = play(control, known[name], environments, steps, 0, lanes=1, store="padded")
        connection.send((played.steps / (played.agent_seconds + played.env_seconds), slots))


@contextmanager
def working(number: int, environments: int, steps: int) -> Iterator[Callable[[str], tuple[float, float]]]:
    """Processes that share the environments; the callable plays a policy and gives steps a second of all, and slots."""
    with spawned(_work, [(environments // number, steps)] * number) as connections:

        def run(name: str) -> tuple[float, float]:
            for connection in connections:
                connection.send(name)
            told = [connection.recv() for connection in connections]
            return sum(rate for rate, _ in told), told[0][1]

        yield run


def products(control: ControlModel, rows: int) -> float:
    """Seconds that one step's matrix products take for a batch of so many environments, three tokens each."""
    encoder = control.model.encoder
    layers = [
        layer
        for block in encoder.h
        for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    ]
    inputs = [torch.randn(3 * rows, layer.weight.shape[0]) for layer in layers]
    for position in (-3, -2, -1):  # behind the last layer's attention only the newest token goes on
        inputs[position] = inputs[position][:rows]
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        for layer, given in zip(layers, inputs, strict=True):
            affine(layer, given)
        best = min(best, time.perf_counter() - started)
    return best


def throughput(control: ControlModel, arguments: argparse.Namespace, threads: int) -> None:
    """Prints steps a second of every way, as ratios to the example's."""
    ways: dict[str, Callable[[SimulatorPool], tuple[float, float, Rollout | None]]] = {}

    def as_example(number: int) -> Callable[[SimulatorPool], tuple[float, float, Rollout | None]]:
        def run(_: SimulatorPool) -> tuple[float, float, Rollout | None]:
            torch.set_num_threads(number)
            try:
                return example(control, arguments.steps), 60.0, None
            finally:
                torch.set_num_threads(1)

        return run

    def as_batch(
        policy: Policy | None, environments: int, workers: bool
    ) -> Callable[[SimulatorPool], tuple[float, float, Rollout | None]]:
        def run(pool: SimulatorPool) -> tuple[float, float, Rollout | None]:
            played, slots = play(control, policy, environments, arguments.steps, pool if workers else 0)
            return played.steps / (played.agent_seconds + played.env_seconds), slots, played

        return run

    for number in sorted({1, threads}):
        ways[f"1 | the example's way, torch threads {number} | 0"] = as_example(number)
    for environments in arguments.environments:
        for name, policy in policies().items():
            for workers in (False, True) if environments >= 16 else (False,):
                label = "auto" if workers and arguments.simulators is None else arguments.simulators if workers else 0
                ways[f"{environments} | {name} | {label}"] = as_batch(policy, environments, workers)
    found: dict[str, list[tuple[float, float, Rollout | None]]] = {}
    with SimulatorPool(arguments.simulators) as pool, ExitStack() as stack:
        cores = _cores()
        for environments in (number for number in arguments.environments if number >= 8 * cores > 8):
            shared = stack.enter_context(working(cores, environments, arguments.steps))
            for name in policies():
                label = f"{environments} | {name} | 0, {cores} workers of {environments // cores}"
                ways[label] = lambda _, shared=shared, name=name: (*shared(name), None)
        rollout(WindowAgent(control), control.facts.env_id, range(64), 3600.0, max_steps=1, simulators=pool)
        for _ in range(arguments.repetitions):
            for name, run in ways.items():
                found.setdefault(name, []).append(run(pool))
    base = [max(rates) for rates in zip(*([r for r, *_ in found[n]] for n in ways if "example" in n), strict=True)]
    print("| environments | way | simulator processes | env steps / s | ratio | slots at the end |")
    print("|---|---|---|---|---|---|")
    for name, runs in found.items():
        ratio = statistics.median(rate / reference for (rate, *_), reference in zip(runs, base, strict=True))
        rate = statistics.median(rate for rate, *_ in runs)
        print(f"| {name} | {rate:.0f} | {ratio:.1f}x | {runs[-1][1]:.0f} |", flush=True)
    _limit(control, max(arguments.environments), arguments.steps, found)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limit(
    control: ControlModel, environments: int, steps: int, found: dict[str, list[tuple[float, float, Rollout | None]]]
) -> None:
    """What a worker's parts, measured alone, would allow if every core were always busy, and how near the run came."""
    cores, name = _cores(), "namm text-v1 (sequence)"
    apart = [rate for way in found if way.startswith(f"{environments} | {name} | 0, ") for rate, *_ in found[way]]
    if not apart:
        return
    rows = environments // cores
    alone = [play(control, policies()[name], rows, steps, 0, lanes=1, store="padded")[0] for _ in range(3)]
    simulator = min(played.env_seconds / played.steps for played in alone)
    agent = min(played.agent_seconds / played.steps for played in alone)
    matrix = products(control, rows) / rows
    with_agent, with_products = cores / (simulator + agent), cores / (simulator + matrix)
    print(
        f"\nOne core alone, {rows} environments: simulator {1 / simulator:.0f} steps/s, agent under NAMM "
        f"{1 / agent:.0f}, of which matrix products alone {1 / matrix:.0f}.\n"
        f"With {cores} cores always busy: {with_agent:.0f} with this agent (reached: "
        f"{100 * max(apart) / with_agent:.0f} %), {with_products:.0f} with nothing of it but matrix products (reached: "
        f"{100 * max(apart) / with_products:.0f} %)."
    )


def latency(control: ControlModel, environments: int, steps: int) -> None:
    """Prints milliseconds of the agent per environment step in windows of an episode, as ratios to the first window."""
    chosen = {name: policy for name, policy in policies().items() if policy is not None}
    agents = {name: IncrementalAgent(control, memory=Memory(policy)) for name, policy in chosen.items()}
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.tensor(control.facts.state_mean), torch.tensor(control.facts.state_std)
    for agent in agents.values():
        agent.reset(environments)
    times: dict[str, list[float]] = {name: [] for name in agents}
    for first in range(0, steps, LATENCY_WINDOW):
        shape = (LATENCY_WINDOW, environments, control.state_dim)
        states = mean + 0.5 * std * torch.randn(shape, generator=generator)
        for name, agent in agents.items():
            spent = []
            for offset in range(LATENCY_WINDOW):
                started = time.perf_counter()
                moment = torch.full((environments,), first + offset)
                agent.act(states[offset], torch.full((environments,), 3000.0 - 3.0 * (first + offset)), moment)
                spent.append(time.perf_counter() - started)
            times[name].append(1000.0 * float(np.mean(sorted(spent)[: -LATENCY_WINDOW // 10])) / environments)
    columns = [f"{first}-{first + LATENCY_WINDOW - 1}" for first in range(0, steps, LATENCY_WINDOW)]
    print(f"\nAgent's time by step of the episode, {environments} environments (mean of the fastest nine tenths):\n")
    print("| way | ms per env step at first | " + " | ".join(columns) + " | slots at the end |")
    print("|---|---|" + "---|" * (len(columns) + 1))
    for name, spent in times.items():
        ratios = " | ".join(f"{value / spent[0]:.2f}x" for value in spent)
        memory = agents[name].memory
        slots = float(memory.slots().float().mean()) if memory is not None else 0.0
        print(f"| {name} | {spent[0]:.3f} | {ratios} | {slots:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--environments", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--simulators", type=int, default=None, help="processes that step environments; default: auto")
    parser.add_argument("--latency-environments", type=int, default=8)
    parser.add_argument("--latency-steps", type=int, default=1000)
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    control = ControlModel.load(HOPPER)
    throughput(control, arguments, threads)
    latency(control, arguments.latency_environments, arguments.latency_steps)


if __name__ == "__main__":
    main()
