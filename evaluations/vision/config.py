"""Everything that a video experiment can be told, each option with its meaning; the command line is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evaluations.boards.wandb_package import Mode
from evaluations.tasks.video.tasks import OWN
from evaluations.vision.shipped import SHIPPED_MODEL, SHIPPED_NAMM


@dataclass(frozen=True)
class VideoConfig:
    """Everything `video.py` can be told."""

    model: str = str(SHIPPED_MODEL)
    """A video-language model: a folder, or a Hub id such as llava-hf/LLaVA-NeXT-Video-7B-hf."""

    namm: Path = SHIPPED_NAMM
    """Folder of the NAMM; others lie beside it, such as text-v2."""

    policy: tuple[str, ...] | None = None
    """Policies to compare: namm:source (also `namm`), namm:sequence, namm:released; rivals, also POLICY@heads and
    POLICY(schedule=prompt); relevance, redundancy and frame_selection judge frames by --clip. Default: the usual."""

    benchmark: tuple[str, ...] = OWN
    """rendered, easy-vqa (drawn here); longvideobench, video-mme, mlvu or mlvu/needle (files in --data)."""

    data: Path | None = None
    """Folder of the benchmark, as its makers lay it out."""

    frames: int | None = None
    """Frames of a video that are seen. Default: the benchmark's number."""

    subtitles: bool = False
    """Read what is said, each line between the frames where it is said."""

    template: Path | None = None
    """File with the wording of a question, {question} and {options} in it. Default: this project's own."""

    chat: str | None = None
    """Around pictures and question, such as 'USER: {content} ASSISTANT:'. Default: the model's own chat template."""

    limit: int | None = None
    """First questions of a benchmark only."""

    clips: int | None = None
    """Clips of a seed, where they are drawn here. Default: 24, in the short form 4."""

    clip: str | None = None
    """A CLIP of open_clip that judges frames: ViT-L-14-336:openai, hf-hub:OWNER/NAME, local-dir:FOLDER. Default: the
    one in the model's own folder `clip`, where there is one."""

    labels: Path | None = None
    """File with words for what a frame may show, one a line: the report says what was kept and dropped in them."""

    interval: int = 64
    """Tokens between two updates, a multiple of 16; the released code has 512."""

    schedule: Literal["interval", "prompt"] = "interval"
    """Update at every interval, or once, when all frames have been read."""

    seeds: tuple[int, ...] = (0,)
    """Of clips that are drawn, and of policies that draw."""

    match: str | None = None
    """The NAMM whose mean size the rivals get. Default: the first one among --policy."""

    budget: int | None = None
    """Slots per KV head after an update, for every policy that forgets, NAMM included; nothing is matched then."""

    curve: int = 0
    """Budgets at which every policy that forgets is tried besides, for the picture of score against memory; there the
    budget alone decides, for the NAMM too."""

    protect_last: int = 1
    """Newest tokens that no policy evicts, as released."""

    rope_factor: float | None = None
    """Stretch rotary positions linearly by this factor, where a clip is longer than the model's window."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the model; auto is what its checkpoint says."""

    device: str = "cpu"
    """cpu, cuda, cuda:1, ..., or auto: accelerate spreads the layers over all devices."""

    batch: int = 16
    """Most questions side by side."""

    chunk: int | None = None
    """Most tokens in one forward call; less room for a long clip. Changes no result."""

    workers: int = 1
    """Processes of this machine that share the cells, each with the model; several machines share --out."""

    threads: int = 1
    """Torch threads."""

    out: Path = Path("results/video")
    """Folder of the experiment; its name is the group in Weights & Biases."""

    wandb: Mode = "auto"
    """auto is online where somebody is logged in, else offline."""

    quick: bool = False
    """A short form to try things out: 4 clips, five policies; other options given here win."""

    config: Path | None = None
    """Start from the config.json of an earlier run; other options given here win."""
