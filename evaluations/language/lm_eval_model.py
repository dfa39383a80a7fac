"""lm-evaluation-harness on an evicting model: every task of lm_eval, under any policy (``--model namm``).

Everything is lm_eval's own (requests, chat templates, truncation, stop strings, metrics) but the cache. Prompts are
read under the policy, then answers are generated or scored token by token through what it kept; contexts that requests
share are read once. What was really kept goes into the results, task by task: a policy that evicts nothing looks like
full attention. Source: EleutherAI/lm-evaluation-harness 0.4.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# lm_eval's registry wraps HFLM in a decorator without types: a checker sees none of its members
from __future__ import annotations

import hashlib
import inspect
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jinja2
import torch
from jaxtyping import Int
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessorList

from evaluations.experiment.names import policy_of
from evaluations.language.lm_eval_cache import bind, identity_of
from evaluations.language.lm_eval_kept import Kept, WhenRead
from modalities import attach
from modalities.huggingface.rope import NTKRope, scale_rope
from modalities.language.prompts import Group, Prompt, batches_of, groups_of
from modalities.language.reading import read
from modalities.pretrained import Located, load_tokenizer, locate, weight_facts
from modalities.pretrained.loading import moved
from modalities.pretrained.precision import quick_dtype
from namm.errors import AttachError, ConfigError, DataError

logger = logging.getLogger("lm_eval.models.namm")  # lm_eval shows its own loggers only

CHUNK = 1024
"""Columns of one forward call when tokens are scored; bounds the logits that exist at once."""
POOLED = "all tasks"
"""Where what was kept is not told apart by task: with several processes."""

Scored = tuple[float, bool]
Encoded = tuple[Any, list[int], list[int]]


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
        super().__init__(
            pretrained, **{"device": None, **rest}
        )  # lm_eval's default is CUDA, where there is any or none
        if self.backend != "causal":
            raise AttachError(
                f"Expected a causal language model, found a {self.backend} one: it has no cache to evict."
            )
        if rest.get("dtype", "auto") == "auto":
            self._model = moved(self._model, quick_dtype(self.model.dtype, self.model.device))
        self.rope = None if ntk_factor is None else NTKRope(float(ntk_factor), float(ntk_alpha))
        if self.rope is not None:
            scale_rope(self.model, self.rope)
        with attach(self.model, self.policy):  # says now what it cannot drive
            pass
        self.kept: defaultdict[str, Kept] = defaultdict(Kept)
        self._task = POOLED

    @property
    def eot_token_id(self) -> int:
        """Ends a text; of a tokenizer without such a token the one that pads, or begins a text."""
        known = (self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, self.tokenizer.bos_token_id)
        return next(token for token in known if token is not None)

    def set_cache_hook(self, cache_hook: Any) -> None:
        """lm_eval's `--use_cache` from now on: refused where another model or policy answered.

        Raises:
            ConfigError: The cache's responses are not this model's under this policy.
        """
        responses = getattr(cache_hook, "dbdict", None)
        if responses is not None:
            rope = None if self.rope is None else vars(self.rope)
            identity = {**identity_of(self, self.policy), "rope": rope}
            bind(responses, identity, str(getattr(responses, "filename", "the cache")))
        super().set_cache_hook(cache_hook)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Scored]:
        """Log-likelihood and greediness of each continuation, each token through the evicting cache.

        Raises:
            DataError: A request has nothing to score, or more than the window holds.
        """
        for request in requests:
            context, continuation = request.args
            if not context and not self.tok_encode(continuation, add_special_tokens=False):
                raise DataError(f"{_named(request.args)}: expected a continuation to score, found no token in it.")
        return self._by_task(requests, lambda some: super(NammLM, self).loglikelihood(some, disable_tqdm))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in lm_eval's windows.

        Raises:
            DataError: A text has no token.
        """
        for request in requests:
            if not self.tok_encode(request.args[0], add_special_tokens=False):
                raise DataError(f"{_named(request.args)}: expected a text to score, found no token in it.")
        return self._by_task(requests, lambda some: self._rolling(some, disable_tqdm))

    def _rolling(self, requests: list[Any], disable_tqdm: bool) -> list[float]:
        """A batch of texts at a time, so that what is scored is in lm_eval's cache when a run is killed."""
        alone = self.world_size > 1 or self.batch_size == "auto"  # ranks must make the same calls; auto is slow to find
        step = max(1, len(requests)) if alone else int(self.batch_size)
        parts = [requests[start : start + step] for start in range(0, len(requests), step)]
        return [score for part in parts for score in super(NammLM, self).loglikelihood_rolling(part, disable_tqdm)]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, greedy or sampled, as the task says.

        Raises:
            DataError: A prompt is empty, or its answer leaves no room for a prompt.
        """
        for request in requests:
            context, options = request.args
            longest = options.get("max_gen_toks", options.get("max_new_tokens", self.max_gen_toks))
            if not self.tok_encode(context):
                raise DataError(f"{_named(request.args)}: expected a prompt to answer, found no token in it.")
            if int(longest) >= self.max_length:
                raise DataError(
                    f"{_named(request.args)}: expected room for a prompt beside its answer, found answers of "
                    f"{longest} tokens in a window of {self.max_length}; give a larger max_length= or a smaller "
                    "max_gen_toks (--gen_kwargs)."
                )
        return self._by_task(requests, lambda some: super(NammLM, self).generate_until(some, disable_tqdm))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The turns in the tokenizer's chat template.

        Raises:
            ConfigError: The tokenizer has none, or its template does not take these turns.
        """
        try:
            return super().apply_chat_template(chat_history, add_generation_prompt)
        except (jinja2.TemplateError, ValueError) as error:
            roles = ", ".join(turn["role"] for turn in chat_history)
            raise ConfigError(
                f"Expected a chat template that takes turns of {roles}, found: {error}. Leave --apply_chat_template "
                "out, or give the tokenizer another template."
            ) from error

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
        """Scores continuations, contexts that begin alike read once; what is finished goes into lm_eval's cache."""
        prompts, whose, single = self._prompts(requests)
        found: list[Scored] = [(0.0, True)] * len(requests)
        for place, answer in zip((place for place, _, _ in single), self._scores_after_one(single), strict=True):
            found[place] = answer
        for place in {place for place, _, _ in single} - set(whose):
            self._keep(requests[place], found[place])
        rows = override_bs or (self.batch_size if self.batch_size != "auto" else self._detect_batch_size())
        # judged after the first call, which must be the whole context
        once = self.policy.selection.schedule == "prompt"
        draws = hasattr(self.policy, "seed")  # its draws must not depend on what else is asked
        groups = groups_of(prompts)
        if draws:
            groups = [Group((m,), len(prompts[m].context), _identity(prompts[m])) for g in groups for m in g.members]
        batches = batches_of(groups, prompts, rows, rows * (self.max_length + 1), share=not once and not draws)
        with tqdm(total=len(requests), disable=disable_tqdm or self.rank != 0, desc="Scoring under the policy") as bar:
            bar.update(len(requests) - len(prompts))
            for batch in batches:
                answers, _ = read(self.model, self.policy, prompts, batch, chunk=None if once else CHUNK)
                for place, answer in answers.items():
                    total, greedy = found[whose[place]]
                    hits = greedy and all(answer.hits)
                    found[whose[place]] = (total + sum(answer.log_likelihoods), hits)
                    self.kept[self._task].add(float(answer.held_after.float().mean()), prompts[place].tokens)
                    self._keep(requests[whose[place]], found[whose[place]])
                bar.update(len(answers))
        return found

    def _prompts(self, requests: list[Encoded]) -> tuple[list[Prompt], list[int], list[tuple[int, int, int]]]:
        """Prompts, the request of each, and what follows a single token: request, token, the token to predict.

        Raises:
            DataError: A request cannot be scored.
        """
        prompts: list[Prompt] = []
        whose: list[int] = []
        single: list[tuple[int, int, int]] = []
        cut = 0
        for place, (text, context, continuation) in enumerate(requests):
            if not context or not 0 < len(continuation) <= self.max_length:
                raise DataError(
                    f"{_named(text)}: expected a context and 1 to {self.max_length} tokens to score (max_length), "
                    f"found {len(context)} and {len(continuation)}."
                )
            cut += len(context) + len(continuation) > self.max_length + 1
            tokens = (context + continuation)[-(self.max_length + 1) :][:-1]
            first = len(tokens) - len(continuation)
            if first == 0:  # one token of context: nothing can have been forgotten yet
                single.append((place, tokens[0], continuation[0]))
                first, continuation = 1, continuation[1:]
            if continuation:
                prompts.append(Prompt(tuple(tokens[:first]), tuple(tokens[first:]), tuple(continuation)))
                whose.append(place)
        if cut:
            logger.warning(
                "%d of %d requests in %s are longer than the window of %d tokens: cut on the left, as lm_eval does.",
                cut, len(requests), self._task, self.max_length,
            )  # fmt: skip
        return prompts, whose, single

    def _keep(self, request: Encoded, answer: Scored) -> None:
        """Puts a response into lm_eval's cache; windows of a rolling request are cached as one, by lm_eval."""
        if request[0] is not None:
            self.cache_hook.add_partial("loglikelihood", request[0], answer)

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
            if hasattr(self.policy, "seed") and options.get("num_beams", 1) == 1:
                real = options["attention_mask"].bool()
                memory.identities = torch.tensor(
                    [_hashed(row[on].tolist()) for row, on in zip(context, real, strict=True)]
                )
            noted = LogitsProcessorList([WhenRead(memory, self.kept[self._task])])
            return super()._model_generate(context, *args, logits_processor=noted, **options)


def _of_gguf(located: Located) -> dict[str, Any]:
    """What lm_eval needs to read a GGUF file, with a tokenizer that cuts text as the file says."""
    return {} if located.gguf is None else {**located.options, "tokenizer": load_tokenizer(located)}


def _named(text: Any) -> str:
    """A request by its beginning."""
    return f"Request {str(text)[:120]!r}" if text is not None else "A window of a rolling request"


def _identity(prompt: Prompt) -> int:
    """Of a prompt's sequence in a memory: of its context alone, so that a run that goes on draws as it would have."""
    return _hashed(prompt.context)


def _hashed(tokens: Sequence[int]) -> int:
    return int.from_bytes(hashlib.sha256(repr(list(tokens)).encode()).digest()[:4], "big")
