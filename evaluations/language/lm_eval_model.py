"""lm-evaluation-harness on an evicting model: every task of lm_eval, under any policy (``--model namm``).

Everything is lm_eval's own (requests, chat templates, truncation, stop strings, metrics) but the cache. Prompts are
read under the policy, then answers are generated or scored token by token through what it kept; contexts that requests
share are read once. What was really kept goes into the results, task by task: a policy that evicts nothing looks like
full attention. Source: EleutherAI/lm-evaluation-harness 0.4.
"""

from __future__ import annotations

import inspect
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from evaluations.experiment.names import policy_of
from modalities import attach
from modalities.huggingface.rope import NTKRope, scale_rope
from modalities.language.prompts import Prompt, batches_of, groups_of
from modalities.language.reading import read
from modalities.pretrained import Located, load_tokenizer, locate, weight_facts
from namm import Memory
from namm.errors import AttachError

logger = logging.getLogger("lm_eval.models.namm")  # lm_eval shows its own loggers only

CHUNK = 1024
"""Columns of one forward call when tokens are scored; bounds the logits that exist at once."""
POOLED = "all tasks"
"""Where what was kept is not told apart by task: with several processes."""

Scored = tuple[float, bool]
Encoded = tuple[Any, list[int], list[int]]


@dataclass
class Kept:
    """What was held when the prompts of a task had been read, log-likelihood requests with what is scored."""

    requests: int = 0
    fraction: float = 0.0
    slots: float = 0.0
    tokens: int = 0

    def add(self, slots: float, tokens: int) -> None:
        """One request.

        Args:
            slots: Held, mean over layers and KV heads.
            tokens: Seen.
        """
        self.requests += 1
        self.fraction += slots / tokens
        self.slots += slots
        self.tokens += tokens

    def facts(self) -> dict[str, float]:
        """Means over requests."""
        means = {"kept_fraction": self.fraction, "slots": self.slots, "tokens_seen": float(self.tokens)}
        return {"requests": self.requests, **{name: total / self.requests for name, total in means.items()}}


@register_model("namm")
class NammLM(HFLM):
    """lm_eval's Hugging Face model with an eviction policy on its KV cache."""

    def __init__(
        self,
        pretrained: Any,
        policy: str = "namm",
        namm: str | None = None,
        ntk_factor: float | None = None,
        ntk_alpha: float = 2.0,
        **arguments: Any,
    ) -> None:
        """A model of the Hub, a folder, or in memory.

        Args:
            pretrained: As lm_eval's ``hf`` takes it; also FILE.gguf and the published names (``smollm2``).
            policy: A policy's name, or ``namm:source``, ``namm:sequence``, ``namm:released``.
            namm: Folder of a NAMM, or a checkpoint of the released trainer; the shipped one by default.
            ntk_factor: Context windows that NTK-scaled rotary positions should fit; None leaves positions alone.
            ntk_alpha: Strength of that scaling.
            arguments: Options of the policy (``budget``, ``interval``, ``protected_first``, ...); everything else is
                lm_eval's own (``dtype``, ``max_length``, ``batch_size``, ``device``, ...).

        Raises:
            NammError: The policy, its options or the NAMM are wrong, or the model cannot be driven.
        """
        self.policy, rest = policy_of(policy, namm, arguments, inspect.signature(HFLM.__init__).parameters)
        self.located = locate(pretrained) if isinstance(pretrained, str) else None
        if self.located is not None:
            pretrained, rest = self.located.source, {**_of_gguf(self.located), **rest}
        super().__init__(pretrained, **rest)
        if self.backend != "causal":
            raise AttachError(
                f"Expected a causal language model, found a {self.backend} one: it has no cache to evict."
            )
        if ntk_factor is not None:
            scale_rope(self.model, NTKRope(float(ntk_factor), float(ntk_alpha)))
        with attach(self.model, self.policy):  # says now what it cannot drive
            pass
        self.kept: defaultdict[str, Kept] = defaultdict(Kept)
        self._task = POOLED

    @property
    def eot_token_id(self) -> int:
        """Ends a text; of a tokenizer without such a token the one that pads, or begins a text."""
        known = (self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, self.tokenizer.bos_token_id)
        return next(token for token in known if token is not None)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Scored]:
        """Log-likelihood and greediness of each continuation, each token through the evicting cache."""
        return self._by_task(requests, lambda some: super(NammLM, self).loglikelihood(some, disable_tqdm))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in lm_eval's windows."""
        return self._by_task(requests, lambda some: super(NammLM, self).loglikelihood_rolling(some, disable_tqdm))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, greedy or sampled, as the task says."""
        return self._by_task(requests, lambda some: super(NammLM, self).generate_until(some, disable_tqdm))

    def get_model_info(self) -> dict[str, Any]:
        """lm_eval's facts, the policy, and what it kept so far."""
        kept = {task: held.facts() for task, held in self.kept.items()}
        for task, facts in kept.items():
            logger.info("%s kept %.1f%% of the cache in %s", self.policy.name, 100 * facts["kept_fraction"], task)
            if self.policy.name != "full" and facts["kept_fraction"] == 1.0:
                logger.warning(
                    "%s evicted nothing in %s: no prompt reached the update interval of %s tokens, or the budget; "
                    "these scores are the full cache's. Give a smaller interval= or budget=.",
                    self.policy.name, task, self.policy.selection.interval,
                )  # fmt: skip
        told = {**self.policy.describe(), "kept": kept}
        if self.located is not None:
            told["weights"] = weight_facts(self.located, getattr(self.model.config, "_commit_hash", None))
        return {**super().get_model_info(), "namm": told}

    def _by_task(self, requests: list[Any], answer: Callable[[list[Any]], list[Any]]) -> list[Any]:
        """Answers requests task by task, so that what was kept is known of each; the order is the requests'."""
        if self.world_size > 1:  # ranks must make the same calls
            return answer(requests)
        places: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(request.task_name or POOLED, []).append(place)
        found: list[Any] = [None] * len(requests)
        for task, mine in places.items():
            with self._noted_as(task):
                for place, result in zip(mine, answer([requests[place] for place in mine]), strict=True):
                    found[place] = result
        return found

    @contextmanager
    def _noted_as(self, task: str) -> Iterator[None]:
        self._task = task
        try:
            yield
        finally:
            self._task = POOLED

    def _loglikelihood_tokens(
        self, requests: list[Encoded], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Scored]:
        """Scores continuations, contexts that begin alike read once."""
        prompts: list[Prompt] = []
        whose: list[int] = []
        found: list[Scored] = [(0.0, True)] * len(requests)
        single: list[tuple[int, int, int]] = []  # request, its one token of context, and the token to predict
        for place, (_, context, continuation) in enumerate(requests):
            tokens = (context + continuation)[-(self.max_length + 1) :][:-1]
            first = len(tokens) - len(continuation)
            if first == 0:  # one token of context: nothing can have been forgotten yet
                single.append((place, tokens[0], continuation[0]))
                first, continuation = 1, continuation[1:]
            if continuation:
                prompts.append(Prompt(tuple(tokens[:first]), tuple(tokens[first:]), tuple(continuation)))
                whose.append(place)
        for place, answer in zip((place for place, _, _ in single), self._scores_after_one(single), strict=True):
            found[place] = answer
        rows = override_bs or (self.batch_size if self.batch_size != "auto" else self._detect_batch_size())
        groups = groups_of(prompts)
        once = (
            self.policy.selection.schedule == "prompt"
        )  # judged after the first call, which must be the whole context
        batches = batches_of(groups, prompts, rows, rows * (self.max_length + 1), share=not once)
        with tqdm(total=len(requests), disable=disable_tqdm or self.rank != 0, desc="Scoring under the policy") as bar:
            bar.update(len(requests) - len(prompts))
            for batch in batches:
                answers, _ = read(self.model, self.policy, prompts, batch, chunk=None if once else CHUNK)
                for place, answer in answers.items():
                    total, greedy = found[whose[place]]
                    hits = greedy and all(answer.hits)
                    found[whose[place]] = (total + sum(answer.log_likelihoods), hits)
                    self.kept[self._task].add(float(answer.held_after.float().mean()), prompts[place].tokens)
                bar.update(len(answers))
        for (text, _, _), answer in zip(requests, found, strict=True):
            if text is not None:  # windows of a rolling request are cached as one, by lm_eval
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return found

    @torch.inference_mode()
    def _scores_after_one(self, asked: Sequence[tuple[int, int, int]]) -> list[Scored]:
        """Scores of tokens that follow a single one, which is all their context."""
        scores: list[Scored] = []
        for start in range(0, len(asked), CHUNK):
            some = asked[start : start + CHUNK]
            before = torch.tensor([[token] for _, token, _ in some], device=self.device)
            wanted = torch.tensor([token for _, _, token in some], device=self.device)
            logits = self._model_call(before)[:, -1].float()
            likelihood = logits.log_softmax(-1).gather(1, wanted[:, None]).squeeze(1)
            scores += zip(likelihood.tolist(), (logits.argmax(-1) == wanted).tolist(), strict=True)
        return scores

    def _model_generate(self, context: Int[Tensor, "rows columns"], *args: Any, **options: Any) -> Tensor:
        """lm_eval's own generation, on the evicting cache."""
        with attach(self.model, self.policy) as memory:
            noted = LogitsProcessorList([_WhenRead(memory, self.kept[self._task])])
            return super()._model_generate(context, *args, logits_processor=noted, **options)


def _of_gguf(located: Located) -> dict[str, Any]:
    """What lm_eval needs to read a GGUF file, with a tokenizer that cuts text as the file says."""
    return {} if located.gguf is None else {**located.options, "tokenizer": load_tokenizer(located)}


class _WhenRead(LogitsProcessor):
    """Changes nothing; notes what the memory holds when generation begins."""

    def __init__(self, memory: Memory, kept: Kept) -> None:
        self.memory, self.kept, self.is_read = memory, kept, False

    def __call__(
        self, input_ids: Int[Tensor, "rows columns"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        if not self.is_read:
            self.is_read = True
            held = self.memory.slots().float().mean(dim=(1, 2))
            for slots, tokens in zip(held.tolist(), self.memory.seen.tolist(), strict=True):
                self.kept.add(slots, tokens)
        return scores
