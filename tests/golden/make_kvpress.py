"""Runs kvpress on a tiny random Llama and stores what it scored, kept and answered: tests/golden/kvpress.npz.

kvpress wants an older transformers than this project, so it needs an environment of its own:

    python3 -m venv /tmp/kvpress-env
    /tmp/kvpress-env/bin/pip install torch==2.13.0 kvpress==0.5.5
    /tmp/kvpress-env/bin/python tests/golden/make_kvpress.py

Presses that draw (leverage scores) are seeded before each layer with the layer's number, as this project's are. KVzip
is given a stand-in for a tokenizer, since the model has none: its requests are tokens that are named here.

What is stored for each case: ``scores`` [layers, kv_heads, prompt] where the press has scores, ``kept`` (0 or 1) of the
same shape, and ``logits`` of the tokens that are fed one by one after the prompt, on the compressed cache.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import kvpress
import numpy as np
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

PROMPT, AFTER = 96, 4
DECODED = 64
REQUEST, RESUME, ANSWER = [3, 1, 4], [15, 9, 2, 6], [5]
CONFIG = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.35,
    "tie_word_embeddings": True,
}


def at_prompt_end() -> dict[str, tuple[object, str]]:
    """Case name: press, and the attention implementation it runs on."""
    cases: dict[str, tuple[object, str]] = {}
    for ratio in (0.5, 0.75):
        snap = {"compression_ratio": ratio, "window_size": 8, "kernel_size": 5}
        ours = {
            "knorm": kvpress.KnormPress(compression_ratio=ratio),
            "keydiff": kvpress.KeyDiffPress(compression_ratio=ratio),
            "streaming_llm": kvpress.StreamingLLMPress(compression_ratio=ratio, n_sink=4),
            "tova": kvpress.TOVAPress(compression_ratio=ratio),
            "snapkv": kvpress.SnapKVPress(**snap),
            "pyramidkv": kvpress.PyramidKVPress(**snap, beta=2),
            "adakv_free": kvpress.AdaKVPress(kvpress.SnapKVPress(**snap), alpha_safeguard=0.0),
            "adakv": kvpress.AdaKVPress(kvpress.SnapKVPress(**snap), alpha_safeguard=0.2),
            "lagkv": kvpress.LagKVPress(compression_ratio=ratio, lag_size=8),
            "lagkv_cross": kvpress.LagKVPress(compression_ratio=ratio, lag_size=8, cross_scoring=True),
            "leverage": kvpress.LeverageScorePress(compression_ratio=ratio),
            # parts of 28: the 84 tokens between its sinks and the newest are whole parts
            "compactor": kvpress.CompactorPress(compression_ratio=ratio, chunk_size=28),
            "expected_attention": kvpress.ExpectedAttentionPress(compression_ratio=ratio),
            "expected_attention_mean": kvpress.ExpectedAttentionPress(
                compression_ratio=ratio, use_covariance=False, n_future_positions=64, epsilon=0.02
            ),
        }
        cases |= {f"{name}/{ratio}": (press, "sdpa") for name, press in ours.items()}
        cases[f"observed_attention/{ratio}"] = (kvpress.ObservedAttentionPress(compression_ratio=ratio), "eager")
    return cases


def in_decoding() -> dict[str, object]:
    """Case name: press that compresses every 16 tokens after a prompt of 16."""
    inner = {"knorm": kvpress.KnormPress, "keydiff": kvpress.KeyDiffPress, "tova": kvpress.TOVAPress}
    return {
        f"decoding_{name}/20": kvpress.DecodingPress(press(), compression_interval=16, target_size=20)
        for name, press in inner.items()
    }


def recorded(press: object, scores: list[torch.Tensor]) -> None:
    """Keeps a copy of what the press, or the one it wraps, scores."""
    scorer = getattr(press, "press", press)
    original = scorer.score

    def score(*args: object, **kwargs: object) -> torch.Tensor:
        torch.manual_seed(len(scores))
        found = original(*args, **kwargs)
        scores.append(found[0].clone())
        return found

    scorer.score = score


class Words:
    """Stands in for a tokenizer: each request of KVzip is a few tokens of the model's vocabulary."""

    chat_template = None

    def encode(self, text: str, return_tensors: str, add_special_tokens: bool) -> torch.Tensor:
        """Ids of one of the texts that the press asks for."""
        kinds = {"": [], "\n": ANSWER}
        ids = kinds.get(text, RESUME if "starting" in text else REQUEST)
        return torch.tensor([ids], dtype=torch.long)


def kvzip(model: LlamaForCausalLM, tokens: torch.Tensor, chunk: int) -> dict[str, np.ndarray]:
    """Scores of the repetition, and what is kept of half the prompt, all layers and heads together."""
    import kvpress.presses.kvzip_press as module

    module.AutoTokenizer = type("AutoTokenizer", (), {"from_pretrained": staticmethod(lambda *_: Words())})
    press = kvpress.KVzipPress(compression_ratio=0.5, chunk_size=chunk)
    post, found = press.compress_post, {}

    def compress_post(model: LlamaForCausalLM) -> None:
        found["scores"] = press.score_val[:, 0].clone().numpy()
        post(model)

    press.compress_post = compress_post
    with press(model):
        model.model(input_ids=tokens, past_key_values=DynamicCache())
    kept = np.ones_like(found["scores"], dtype=bool)
    for index, layer in enumerate(model.model.layers):
        _, heads, slots = layer.self_attn.masked_key_indices
        kept[index, heads.numpy(), slots.numpy()] = False
        layer.self_attn.masked_key_indices = None
    return {"scores": found["scores"], "kept": kept}


def kept_of(cache: DynamicCache, full: list[torch.Tensor]) -> np.ndarray:
    """Which of all keys the cache still holds, by comparing them."""
    layers = []
    for layer, keys in zip(cache.layers, full, strict=True):
        same = (
            torch.cdist(layer.keys[0], keys[0], compute_mode="donot_use_mm_for_euclid_dist") < 1e-4
        )  # [kv_heads, held, tokens]
        assert bool((same.sum(-1) == 1).all()), "every key that is held is one of the original ones"
        layers.append(same.any(1))
    return torch.stack(layers).numpy()


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval()
    # no token twice: in the first layer equal tokens have keys of equal norm, and ties are broken differently
    order = torch.randperm(CONFIG["vocab_size"], generator=torch.Generator().manual_seed(1))
    tokens = order[None, : PROMPT + AFTER]
    stored: dict[str, np.ndarray] = {f"weights/{name}": t.numpy() for name, t in model.state_dict().items()}
    stored["tokens"] = tokens.numpy()
    full = DynamicCache()
    model(tokens, past_key_values=full)
    keys = [layer.keys for layer in full.layers]

    for name, (press, implementation) in at_prompt_end().items():
        model.set_attn_implementation(implementation)
        cache, scores = DynamicCache(), []
        recorded(press, scores)
        with press(model):
            model(tokens[:, :PROMPT], past_key_values=cache)
        prompt_keys = [layer_keys[:, :, :PROMPT] for layer_keys in keys]
        if name.startswith("adakv"):
            kept = np.ones((len(keys), keys[0].shape[1], PROMPT), dtype=bool)
            for index, layer in enumerate(model.model.layers):
                _, heads, slots = layer.self_attn.masked_key_indices
                kept[index, heads.numpy(), slots.numpy()] = False
        else:
            kept = kept_of(cache, prompt_keys)
        logits = [
            model(tokens[:, at : at + 1], past_key_values=cache, position_ids=torch.tensor([[at]])).logits[0, 0]
            for at in range(PROMPT, PROMPT + AFTER)
        ]
        stored[f"{name}/scores"] = torch.stack(scores).numpy()
        stored[f"{name}/kept"] = kept
        stored[f"{name}/logits"] = torch.stack(logits).numpy()
        for layer in model.model.layers:
            layer.self_attn.masked_key_indices = None

    model.set_attn_implementation("sdpa")
    for chunk in (2048, 40):
        for what, found in kvzip(model, tokens[:, :PROMPT], chunk).items():
            stored[f"kvzip/{chunk}/{what}"] = found
    for name, press in in_decoding().items():
        cache = DynamicCache()
        with press(model):
            model(tokens[:, :16], past_key_values=cache)
            logits = [
                model(tokens[:, at : at + 1], past_key_values=cache, position_ids=torch.tensor([[at]])).logits[0, 0]
                for at in range(16, 16 + DECODED)
            ]
        stored[f"{name}/logits"] = torch.stack(logits).numpy()

    made_by = {name: version(name) for name in ("kvpress", "torch", "transformers", "numpy")}
    facts = {"made_by": made_by, "config": CONFIG, "prompt": PROMPT, "after": AFTER, "decoded": DECODED}
    facts |= {"request": REQUEST, "resume": RESUME, "answer": ANSWER}
    stored["facts"] = np.array(json.dumps(facts))
    np.savez_compressed(Path(__file__).with_name("kvpress.npz"), **stored)
    print({name: int(stored[f"{name}/kept"].sum()) for name in at_prompt_end()})


if __name__ == "__main__":
    main()
