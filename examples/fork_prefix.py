"""Read a long prefix once, then ask several questions about it: `python examples/fork_prefix.py`.

Runs offline in seconds on the models that ship. The prefix is forgotten down to what the policy keeps; its cache is
then copied for every question, and each copy goes its own way.
"""

from __future__ import annotations

import copy
import inspect
import textwrap
from pathlib import Path

import torch

import checkpoints
from modalities import attach
from modalities.huggingface.attach import cache_of
from namm.policies import make_policy

MODEL = Path(checkpoints.__file__).parent / "text" / "recall-llama"
QUESTIONS = ("def wrap(", "class TextWrapper", "import re")
PREFIX_TOKENS, NEW_TOKENS = 600, 12


@torch.inference_mode()
def main() -> None:
    """Reads once, asks three times, says what each memory held."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL).eval()
    prefix = tokenizer(inspect.getsource(textwrap), return_tensors="pt").input_ids[:, :PREFIX_TOKENS]
    with attach(model, make_policy("h2o", interval=64, budget=96)) as memory:
        trunk = cache_of(model(input_ids=prefix, use_cache=True))
        print(f"the prefix: {memory.seen.tolist()} tokens read, {int(memory.slots().max())} slots held\n")
        for question in QUESTIONS:
            asked = tokenizer(question, return_tensors="pt", add_special_tokens=False).input_ids
            ids, fork = torch.cat([prefix, asked], dim=1), copy.deepcopy(trunk)
            known = torch.ones_like(ids)
            out = model.generate(
                ids, attention_mask=known, cache=fork, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
            )
            print(f"{question!r} -> {tokenizer.decode(out[0, ids.shape[1] :])!r}")
            print(f"  its memory has seen {fork.memory.seen.tolist()} tokens, the prefix's {memory.seen.tolist()}")


if __name__ == "__main__":
    main()
