"""What a process needs to know to play any unit of a control experiment: this one, or a worker beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evaluations.commands.devices import own_device
from evaluations.control.cells import ControlRunner
from evaluations.control.targets import TargetOptions, resolve_targets
from modalities.control.rollout import SimulatorPool
from namm import NAMM
from namm.stores import StoreName


@dataclass(frozen=True)
class ControlSetup:
    """Targets, NAMM, device, and what they have in common."""

    targets: TargetOptions
    namm: Path | None
    device: str
    interval: int
    threads: int
    trace_seed: int
    simulators: int | None = 0
    lanes: int = 2
    store: StoreName = "packed"

    def load(self, index: int = 0) -> dict[str, ControlRunner]:
        """A runner for every target, by name.

        Args:
            index: Of this process among those of this machine; where there are several GPUs, each gets its own.

        Raises:
            NammError: Anything wrong with a target, its files, the NAMM or the device.
        """
        device = own_device(self.device, index)
        found = resolve_targets(self.targets, device)
        namm = None if self.namm is None else NAMM.from_pretrained(self.namm).to(device)
        pool = SimulatorPool(self.simulators)  # its processes end with the runners, or with this process
        common = (self.interval, namm, self.trace_seed, pool, self.lanes, self.store)
        return {target.name: ControlRunner(target, control, *common) for target, control in found}
