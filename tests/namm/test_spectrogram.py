"""What a NAMM is shown of attention: frequencies, or only the mean."""

from __future__ import annotations

import torch

from namm import NAMM, NAMMConfig
from namm.policies import make_policy


def test_without_frequencies_the_averaged_mean_of_each_hop_is_left() -> None:
    config = NAMMConfig(signals=("mean",), decay=0.9, recency_dim=0, scorer="mlp", hidden=4)
    policy = make_policy("namm", namm=NAMM(config), interval=32)
    columns = torch.rand(1, 2, 3, 32, generator=torch.Generator().manual_seed(0))
    state = {name: torch.rand(1, 2, 3, *shape) for name, shape in policy.state_shapes().items()}
    assert state["spectrum"].shape[-1] == config.features == 1
    average = state["spectrum"][..., 0]
    for first in (0, 16):
        average = 0.9**16 * average + (1 - 0.9**16) * columns[..., first : first + 16].mean(-1)
    found = policy.observe(columns, state)["spectrum"][..., 0]
    torch.testing.assert_close(found, average)
