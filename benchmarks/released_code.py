"""The code released with the paper (SakanaAI/evo-memory) on one prompt, imported from where the user has put it.

It has no licence, so nothing of it is here: only names, and the values of its configuration for the BAM policy. It runs
as its evaluator runs it: one sequence, in chunks of 128 tokens that its own ``forward`` cuts, the policy at every 512,
statistics frozen. Its parameters are zeros, as ours are beside it: every score is 0 and passes the threshold, and what
keeps a part is its ``cache_size``, a cap. The head is left out, as it is for the others. Two things stand in for what
these modules import and measuring never calls: lm_eval, and a name that torch once had.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from llama import Clock, Shape, held_bytes, timed

PACKAGES = ("transformers==4.41.2", "hydra-core==1.3.2", "numpy<2")
"""What it wants in other versions than are installed here."""
FILES = ("memory_llms/llama.py", "memory_policy/deep.py", "stateless_parallel_modules/attention.py", "utils.py")
CHUNK, INTERVAL = 128, 512


def check_checkout(folder: Path) -> None:
    """Ends the program where the folder is not a checkout."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        found = f"a folder without {', '.join(missing)}" if folder.is_dir() else "no folder"
        raise SystemExit(
            f"Expected a checkout of the code released with the paper (SakanaAI/evo-memory) at {folder}, "
            f"found {found}; clone it and give its topmost folder: --released FOLDER."
        )


def _modules(folder: Path) -> tuple[Any, Any, Any]:
    """Its models, policies and networks."""
    for name in ("lm_eval", "lm_eval.models", "lm_eval.models.utils"):
        sys.modules[name] = ModuleType(name)
    vars(sys.modules["lm_eval.models.utils"])["Collator"] = object
    sys.modules["torch"].__dict__.setdefault("Tuple", tuple)  # in annotations
    sys.path.insert(0, str(folder))
    return tuple(map(importlib.import_module, ("memory_llms.llama", "memory_policy", "stateless_parallel_modules")))


def _policy(policies: Any, networks: Any, cache_size: int | None, longest: int) -> Any:
    """Spectrogram, recency and BAM of the released configuration; longest counts positions (32,768 there)."""
    shared = {"per_layer": False, "per_head": False, "shared": True}
    output = policies.ComponentOutputParams(
        requires_recomputation=True, reduction_mode="ema", online_output_normalization=True,
        ema_params=policies.EMAParams(coeff=0.99, learned=False, reduction_stride=16),
    )  # fmt: skip
    spectrogram = policies.AttentionSpectrogram(
        output_params=output, stft_params=policies.STFTParams(32, 16, window_fn=torch.hann_window), **shared
    )
    recency = policies.PositionalEmbedding(max_position_id=longest, embed_dim=8, max_freq=50_000)
    attention = networks.StatelessAttentionParams(
        input_dim=None, hidden_dim=32, output_dim=None, num_heads=1, bias=True, max_position_id=longest,
        use_rope=False, rope_theta=50_000, masking_strategy="backward",
    )  # fmt: skip
    linear = networks.StatelessGeneralizedMLP(None, None, 1, hidden_depth=1, bias=True)
    return policies.DeepMP(
        pop_size=1, per_head=False, per_layer=False,
        token_embedding=policies.RecencyEmbeddingWrapper(spectrogram, recency, start_recency_from=0),
        scoring_network=policies.GeneralizedScoring(
            output_params=policies.ComponentOutputParams(requires_recomputation=True), residual=True, mult=True,
            stateless_modules_list=[networks.StatelessAttention(attention), linear], **shared,
        ),
        selection_criteria=policies.BinarySelection(cache_size=cache_size, **shared),
    )  # fmt: skip


class Reader:
    """A model of theirs, called as :func:`llama.timed` calls one of transformers; the cache is here."""

    def __init__(self, model: Any) -> None:
        self.model, self.past, self.seen, self.most = model, (), 0, 0
        update = model.memory_policy.update_cache

        def watched(**given: Any) -> Any:
            self.past = given["past_key_values"]  # the most that is held: before a policy forgets
            self.most = max(self.most, held_bytes(self))
            return update(**given)

        model.memory_policy.update_cache = watched

    def __call__(self, input_ids: torch.Tensor, past_key_values: Reader | None = None, **_: Any) -> SimpleNamespace:
        """Reads these tokens, with ``past_key_values`` after those before."""
        if past_key_values is None:
            self.past, self.seen, self.most = (), 0, 0
        places = torch.arange(self.seen, self.seen + input_ids.shape[1])
        self.seen += len(places)
        self.past = self.model(
            input_ids=input_ids, past_key_values=self.past or None, use_cache=True, position_ids=places[None],
            attention_mask=torch.ones(1, self.seen, dtype=torch.long), cache_position=places,
        ).past_key_values  # fmt: skip
        return SimpleNamespace(past_key_values=self)

    @property
    def layers(self) -> list[SimpleNamespace]:
        """The cache as transformers has it today."""
        return [SimpleNamespace(keys=keys, values=values) for keys, values in self.past]

    def state_bytes(self) -> int:
        """What its policy holds beside keys and values, and between updates."""
        lists = [list(vars(part).values()) for part in self.model.memory_policy.modules()]
        storages = [tensor.untyped_storage() for tensor in _in_lists(lists)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _in_lists(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _in_lists(one)


def measure(folder: Path, tokens: int, cache_size: int | None, shape: Shape, clock: Clock) -> dict[str, float]:
    """Seconds and bytes, as of the other configurations; only in its own environment."""
    models, policies, networks = _modules(folder)
    with torch.device("meta"):  # its wrapper takes the form and makes weights itself: two models would raise the peak
        stock = shape.build()
    policy = _policy(policies, networks, cache_size, stock.config.max_position_embeddings)
    model = models.WrappedLlamaForCausalLM(
        stock, policy, override_attn=False, max_new_tokens=CHUNK, memory_policy_fixed_delay=INTERVAL,
        output_attentions_full_precision=False,
    )  # fmt: skip
    model.lm_head = torch.nn.Identity()
    model.eval().move_model_to(getattr(torch, shape.dtype))
    model.set_memory_params(torch.zeros(1, model.get_param_size()))
    model.set_memory_params_batch_idxs(torch.zeros(1))
    statistics = {name: torch.full((1, 1, 1, 17), float("var" in name)) for name in policy.get_buffers_to_merge_keys()}
    model.load_buffers_dict(statistics)
    model.freeze_sync_buffers()
    model.evaluation_mode()
    reader = Reader(model)
    took = timed(SimpleNamespace(model=reader), tokens, clock)
    held = held_bytes(took.cache)
    return {
        "prefill": took.prefill, "step": took.step, "peak": took.peak, "held": held, "most": max(held, reader.most),
        "state": reader.state_bytes(),
    }  # fmt: skip
