"""Environment steps a second of a Decision Transformer: `python benchmarks/control_steps.py`.

The reference way re-encodes the newest K = 20 steps for every action; the incremental way feeds three tokens and keeps
a cache, here full, as a window, and under the shipped NAMM. Hopper-v5 and the shipped checkpoint; ways take
turns within a repetition, and what counts are the ratios to re-encoding, in one run.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from pathlib import Path

import checkpoints
from modalities import attach
from modalities.control import ControlModel, IncrementalAgent, WindowAgent
from modalities.rollout import rollout
from namm import NAMM
from namm.policies import Policy, make_policy

SHIPPED = Path(checkpoints.__file__).parent
INTERVAL = 48


def policies() -> dict[str, Policy | None]:
    """Ways to act; None re-encodes the native window."""
    namm = NAMM.from_pretrained(SHIPPED / "namm" / "text-v1")
    return {
        "re-encode K=20": None,
        "full": make_policy("full"),
        "window 48": make_policy("window", interval=INTERVAL, budget=48, protected_last=3),
        "namm text-v1": make_policy("namm", namm=namm, interval=INTERVAL, statistics="sequence", protected_last=3),
    }


def measure(control: ControlModel, policy: Policy | None, environments: int, steps: int) -> tuple[float, float, float]:
    """Steps a second of agent and simulator together, of the agent alone, and mean slots per head at the end."""
    with ExitStack() as stack:
        memory = None if policy is None else stack.enter_context(attach(control.model.encoder, policy))
        agent = WindowAgent(control) if memory is None else IncrementalAgent(control, memory=memory)
        played = rollout(
            agent, "Hopper-v5", list(range(environments)), control.facts.target_return or 3600.0, max_steps=steps
        )
        slots = 60.0 if memory is None else float(memory.slots().float().mean())
    return played.steps / (played.agent_seconds + played.env_seconds), played.steps / played.agent_seconds, slots


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--environments", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    control = ControlModel.load(SHIPPED / "control" / "hopper-medium-expert")
    print("| environments | way | env steps / s | ratio | agent alone | ratio | slots at the end |")
    print("|---|---|---|---|---|---|---|")
    for environments in arguments.environments:
        ways = policies()
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
        for _ in range(arguments.repetitions):
            for name, policy in ways.items():
                found[name].append(measure(control, policy, environments, arguments.steps))
        typical = {
            name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()
        }
        base = next(iter(typical.values()))
        for name, (together, alone, slots) in typical.items():
            print(
                f"| {environments} | {name} | {together:.0f} | {together / base[0]:.2f}x | {alone:.0f} "
                f"| {alone / base[1]:.2f}x | {slots:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
