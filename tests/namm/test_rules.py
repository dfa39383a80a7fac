"""Layers with a bounded reach, capped logits, sinks or values of another width, against attention written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from namm.errors import AttachError, ConfigError
from namm.memory import Memory
from namm.policies import make_policy
from namm.rules import PLAIN, AttentionRule, Local

TOKENS, HEADS, KV_HEADS, WIDTH, VALUE_WIDTH = 53, 4, 2, 8, 6

RULES = {
    "plain": PLAIN,
    "window": AttentionRule(local=Local(11)),
    "window of one": AttentionRule(local=Local(1)),
    "chunks": AttentionRule(local=Local(9, chunked=True)),
    "capped": AttentionRule(softcap=1.5),
    "sinks": AttentionRule(sinks=torch.linspace(-1, 2, HEADS)),
    "all": AttentionRule(local=Local(20), softcap=2.0, sinks=torch.linspace(-1, 2, HEADS)),
}


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    heads = ((HEADS, WIDTH), (KV_HEADS, WIDTH), (KV_HEADS, VALUE_WIDTH))
    query, key, value = (torch.randn(2, count, TOKENS, width, generator=generator) for count, width in heads)
    return query, key, value


def weights(query: Tensor, key: Tensor, rule: AttentionRule) -> Tensor:
    """Probabilities of every (query, token), sinks left out of the columns but not of the sum."""
    logits = query @ key.repeat_interleave(HEADS // KV_HEADS, 1).transpose(2, 3) * WIDTH**-0.5
    if rule.softcap is not None:
        logits = rule.softcap * torch.tanh(logits / rule.softcap)
    at = torch.arange(TOKENS)
    hidden = at[None] > at[:, None]
    if rule.local is not None:
        width = rule.local.width
        far = at[:, None] // width != at // width if rule.local.chunked else at[:, None] - at >= width
        hidden = hidden | far
    logits = logits.masked_fill(hidden, -torch.inf)
    if rule.sinks is not None:
        logits = torch.cat([logits, rule.sinks.view(1, -1, 1, 1).expand(2, -1, TOKENS, 1)], 3)
    return logits.softmax(3)[..., :TOKENS]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("pieces", [(TOKENS,), (1, 16, 3, 33), (5,) * 10 + (3,)])
@pytest.mark.parametrize("interval", [None, 16])
def test_with_everything_kept_it_is_attention_written_out(
    name: str, pieces: tuple[int, ...], interval: int | None
) -> None:
    query, key, value = drawn()
    rule = RULES[name]
    wanted = weights(query, key, rule) @ value.repeat_interleave(HEADS // KV_HEADS, 1)
    memory, out = Memory(make_policy("full", interval=interval)), []
    for q, k, v in zip(*(part.split(pieces, 2) for part in (query, key, value)), strict=True):
        out.append(memory.attend(0, q, k, v, rule=rule))
    torch.testing.assert_close(torch.cat(out, 2), wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_padded_rows_are_their_own_sequences(name: str) -> None:
    query, key, value = drawn()
    rule, pads = RULES[name], 7
    padding = torch.ones(2, TOKENS, dtype=torch.bool)
    padding[1, :pads] = False
    together = Memory(make_policy("window", interval=16, budget=6)).attend(0, query, key, value, padding, rule=rule)
    alone = Memory(make_policy("window", interval=16, budget=6)).attend(
        0, *(part[1:, :, pads:] for part in (query, key, value)), rule=rule
    )
    torch.testing.assert_close(together[1:, :, pads:], alone, atol=2e-5, rtol=1e-4)


def test_what_is_out_of_reach_is_freed_at_the_next_update_and_not_counted_as_evicted() -> None:
    query, key, value = drawn()
    memory = Memory(make_policy("full", interval=16))
    memory.attend(0, query, key, value, rule=RULES["window"])
    memory.attend(1, query, key, value, rule=RULES["chunks"])
    assert memory.kept_positions(0)[0, 0].tolist() == list(range(48 - 10, TOKENS))  # those that token 48 sees, and on
    assert memory.kept_positions(1)[0, 0].tolist() == list(range(45, TOKENS))
    report = memory.report()
    assert report.evicted == 0
    assert report.reach == ["window of 11", "chunks of 9"]
    assert "layer 0: slots per KV head 15 15 (peak 26, window of 11)" in str(report)


def test_a_bounded_layer_frees_by_itself_where_the_policy_never_updates() -> None:
    query, key, value = drawn()
    memory = Memory(make_policy("full"))
    memory.attend(0, query, key, value, rule=RULES["window"])
    assert int(memory.slots().max()) < 16 + 11


@pytest.mark.parametrize("name", ["snapkv", "window"])
def test_a_bounded_layer_frees_by_itself_after_a_prompt_that_is_judged_once(name: str) -> None:
    """It grew by every decoded token, and the policy must not judge a second time."""
    query, key, value = drawn()
    rule, prompt = RULES["window"], 30
    memory, out = Memory(make_policy(name, budget=5, schedule="prompt")), []
    for piece in (slice(0, prompt), *(slice(at, at + 1) for at in range(prompt, TOKENS))):
        out.append(memory.attend(0, *(part[:, :, piece] for part in (query, key, value)), rule=rule))
    assert int(memory.slots().max()) < 16 + 11
    assert memory.report().evicted == 2 * KV_HEADS * (10 - 5)  # of the ten that the prompt's last window leaves
    # from the eleventh new token on nothing of the prompt is in reach: attention is that of the plain window
    wanted = weights(query, key, rule) @ value.repeat_interleave(HEADS // KV_HEADS, 1)
    later = slice(prompt + 10, None)
    torch.testing.assert_close(torch.cat(out, 2)[:, :, later], wanted[:, :, later], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_policies_see_the_attention_that_was_paid(name: str) -> None:
    query, key, value = drawn()
    rule = RULES[name]
    memory = Memory(make_policy("h2o", interval=16, budget=TOKENS))
    memory.attend(0, query, key, value, rule=rule)
    paid = weights(query, key, rule)[:, :, :48].sum(2)  # three updates
    paid = paid.unflatten(1, (KV_HEADS, -1)).mean(2)
    cache = memory.layers[0].cache
    for head, (mass, at) in enumerate(
        zip(cache.state["mass"].split(cache.lengths.flatten().tolist()),
            cache.positions.split(cache.lengths.flatten().tolist()), strict=True)
    ):  # fmt: skip
        torch.testing.assert_close(mass, paid.flatten(0, 1)[head, at.long()], atol=1e-4, rtol=1e-3)


def test_impossible_reaches_are_errors() -> None:
    with pytest.raises(ConfigError, match="at least one token"):
        Local(0)
    query, key, value = drawn()
    memory = Memory(make_policy("full"))
    memory.attend(0, query, key, value, rule=RULES["window"])
    with pytest.raises(AttachError, match="reach of window of 11 and now asks for None"):
        memory.attend(0, query, key, value)
