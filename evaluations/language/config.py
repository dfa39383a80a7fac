"""Everything that a text experiment can be told, each option with its meaning; the command line is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import checkpoints
from evaluations.boards.wandb_package import Mode
from evaluations.experiment.names import NAMMS, rivals, with_heads
from evaluations.experiment.names import SHIPPED as SHIPPED_NAMM
from evaluations.rows.policy_names import FULL

SHIPPED = Path(checkpoints.__file__).parent


@dataclass(frozen=True)
class TextConfig:
    """Everything `text.py` can be told."""

    model: str = str(SHIPPED / "text" / "recall-llama")
    """A causal language model: a folder, a Hub id, FILE.gguf, or smollm2, gemma3-270m (docs/pretrained.md)."""

    namm: Path = SHIPPED_NAMM
    """Folder of the NAMM."""

    policy: tuple[str, ...] = (FULL, NAMMS[0], *rivals(), *with_heads(("window", "random")))
    """Policies to compare. A NAMM names its feature statistics: namm:source (also `namm`), namm:target,
    namm:sequence, or namm:released, the released code's arithmetic. POLICY@heads: the NAMM's size head by head;
    POLICY(schedule=prompt): with options of its own. Default: every rival."""

    tasks: tuple[str, ...] | None = None
    """recall, needles, corpus or one of theirs (pairs, needles/multikey, corpus/perplexity); a benchmark or one of
    its tasks (longbench, ruler/niah_single_1). Default: all that the model can do without data."""

    suite: Literal["real"] | None = None
    """`real`: what a real language model is asked; sets what is not given here (evaluations/language/real_suite.py)."""

    answers: Literal["generated", "likelihood", "both"] = "generated"
    """Benchmarks' answers: generated and scored as the source does, or the log-likelihood of the right one, token by
    token through the evicting cache, which tells policies apart with far fewer prompts. Both reads contexts twice."""

    questions: tuple[Literal["after", "before"], ...] = ("after",)
    """Where a benchmark's question stands: after the context, or before it and after it (query-aware). Two protocols,
    each with its own rows."""

    texts: Literal["python", "packages"] = "python"
    """Real text of corpus, ruler and niah: Python's library, or documentation and books that packages carry."""

    data: str | None = None
    """Folder of the benchmark's data, or OWNER/NAME on the Hub. Default: its home on the Hub, or made here."""

    templates: str | None = None
    """Folder or file of the benchmark's own prompt templates, or lm_eval. Default: beside the data."""

    lengths: tuple[int, ...] = (4096,)
    """Context lengths of benchmarks that make contexts or come in lengths (ruler, niah, babilong)."""

    prompt_set: str = "yarn_mistral"
    """Which of a benchmark's prompts, where it has several sets (infinitebench: yarn_mistral, gpt4, claude2)."""

    depths: tuple[int, ...] = (0, 25, 50, 75, 100)
    """Where the needle of niah lies, in percent of the context."""

    samples: int | None = None
    """Prompts a task and length, where a benchmark makes them. Default: as many as its source."""

    limit: int | None = None
    """First prompts of a benchmark's task only."""

    context_tokens: tuple[int, ...] = (384,)
    """Context lengths of recall, needles and corpus."""

    prompts: int | None = None
    """Prompts a task, context length and seed of recall, needles and corpus. Default: 32, in the short form 8."""

    intervals: tuple[int, ...] = (64,)
    """Tokens between two updates, multiples of 16; the released code has 512."""

    schedule: Literal["interval", "prompt"] = "interval"
    """Update at every interval, while reading and while answering, or once, when the context has been read, as
    methods for prefill do. Where the benchmark does not say what the question is, that is the whole prompt."""

    seeds: tuple[int, ...] = (0,)
    """Of drawn prompts, and of policies that draw; data that is read is asked once."""

    match: str | None = None
    """The NAMM whose mean size the rivals get. Default: the first one among --policy."""

    budget: int | None = None
    """Slots per KV head after an update, for every policy that forgets, NAMM included; nothing is matched then."""

    kept_fraction: float | None = None
    """The same as a part of each prompt. Prompts of different lengths are then read one by one."""

    budget_fraction: float | None = None
    """Most that a NAMM may keep of each prompt, where it is free; None leaves it to its threshold."""

    protect_last: int = 1
    """Newest tokens that no policy evicts, as released. More protect the end of the prompt, the question: a
    protocol of its own, told in every row."""

    window: int | None = None
    """Most tokens of a prompt and its answer; longer ones lose their middle. Default: the model's positions."""

    chat_template: bool = False
    """Wrap prompts in the model's chat template, in tasks whose source does so."""

    rope_factor: float | None = None
    """Stretch rotary positions by static NTK scaling, for so many context windows (Llama-3-8B at 32k: 4)."""

    rope_alpha: float = 2.0
    """Strength of that stretch, 2 as released."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the model; auto is what its checkpoint says, but float32 on a CPU that only emulates half precision."""

    device: str = "cpu"
    """cpu, cuda, cuda:1, ..., or auto: accelerate spreads the layers over all devices."""

    batch: int = 32
    """Most prompts side by side."""

    batch_tokens: int = 32768
    """Most tokens side by side, padding included; one prompt is always read. Changes no result."""

    chunk: int | None = None
    """Most tokens of a prompt in one forward call; less room for a long prompt. Changes no result."""

    share: bool = True
    """Read once what prompts have in common. Changes no result."""

    example_tokens: int = 4096
    """Longest prompt that is shown with its kept tokens, one a task; 0 shows none."""

    workers: int = 1
    """Processes of this machine that share the cells, each with the model; several machines share --out."""

    threads: int = 1
    """Torch threads. Batches of a small model gain nothing from more, and lose much where others use the cores."""

    out: Path = Path("results/text")
    """Folder of the experiment; its name is the group in Weights & Biases."""

    wandb: Mode = "auto"
    """auto is online where somebody is logged in, else offline."""

    quick: bool = False
    """A short form to try things out: 8 prompts, one task of each kind; other options given here win."""

    config: Path | None = None
    """Start from the config.json of an earlier run; other options given here win."""
