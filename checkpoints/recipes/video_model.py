"""Trains the small video model: `python checkpoints/recipes/video_model.py`.

First a CLIP with open_clip on rendered frames and their captions (`video_tower.py`); its vision tower, in Hugging
Face's format, then serves frozen in a LLaVA-NeXT-Video whose projector and Llama learn to answer questions about clips.
A curriculum: one scene in a short clip, then more scenes and longer clips, with clips of easy-vqa's images mixed in. A
start that stays on the plateau is dropped for the next seed. Killed at any time, the same command goes on; at the end
the model is measured on test clips and written with its card.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from checkpoints.recipes.video_alignment import AlignmentConfig, align
from checkpoints.recipes.video_batches import seen
from checkpoints.recipes.video_card import export, write_card
from checkpoints.recipes.video_gallery import Gallery
from checkpoints.recipes.video_language import LanguageConfig, make_video_model
from checkpoints.recipes.video_start import start_near_answers
from checkpoints.recipes.video_tower import TowerConfig, train_tower
from checkpoints.recipes.video_trainer import Stage, Trainer, TrainingConfig
from namm.errors import NammError

SEEN = ("colour", "shape", "count", "number")

CURRICULUM = (
    Stage("seen", 12, (1, 2), 8, SEEN, vqa=(1,), vqa_share=0.1, dropped=0.9, until=0.9, steps=400),
    Stage("order", 20, (2, 4), 10, unknown_first=True, vqa=(1, 2), vqa_share=0.1, dropped=0.9, until=0.9, steps=500),
    Stage("all", 40, (4, 6), unknown_first=True, vqa=(1, 4, 8), vqa_share=0.2, dropped=0.9, until=0.97, steps=1000),
    Stage("images", 40, (4, 6), vqa=(1, 8), vqa_share=0.6, dropped=0.9, until=2.0, steps=400),
    Stage("whole", 40, (4, 6), vqa=(1, 8), vqa_share=0.4, steps=250, until=2.0, learning_rate=(0.5, 0.02)),
)


@dataclass(frozen=True)
class RecipeConfig:
    """What the command line sets."""

    out: Path = Path("checkpoints/video/rendered-llava")
    """Where the finished model goes."""
    work: Path = Path("runs/video-model")
    """Where tower, gallery and the state of the training lie, for going on."""
    tower: TowerConfig = field(default_factory=TowerConfig)
    """The CLIP that is trained first."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    """Shape of the language part."""
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """How pooling and projector are prepared."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Seed, optimiser, threads."""
    variants: int = 8
    """Scenes of the gallery for each shape, colour and length."""
    save_seconds: float = 60.0
    """Seconds between two saves of the state."""
    clips: int = 300
    """Test clips on the card."""
    stop_after_steps: int | None = None
    """End this process after so many steps, as if killed (the state is saved, no model is written)."""


def train(config: RecipeConfig, curriculum: tuple[Stage, ...] = CURRICULUM) -> Trainer:
    """Trains, or goes on with the training in `config.work`, until the curriculum ends or `stop_after_steps`.

    Raises:
        NammError: if every start got stuck.
    """
    torch.set_num_threads(config.training.threads)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    config.work.mkdir(parents=True, exist_ok=True)
    gallery = _prepared(config)
    state = config.work / "state.safetensors"
    for seed in range(config.training.seed, config.training.seed + config.training.starts):
        model = make_video_model(config.language, config.work / "clip", seed)
        with _first_rank_first():
            align(model, gallery, config.alignment, seed, config.work)
        with torch.no_grad():
            squares = seen(model, gallery.frames[::64].flatten(0, 1).float())
        growth = start_near_answers(model, squares)
        trainer = Trainer(model, gallery, config.training, curriculum, seed, growth)
        trainer.progress.abandoned = list(range(config.training.seed, seed))
        if state.exists():
            trainer.restore(state)
        if _run(trainer, config, state):
            return trainer
        print(f"seed {trainer.progress.seed} got stuck: trying the next", flush=True)
        state.unlink(missing_ok=True)
    raise NammError(
        f"expected one of {config.training.starts} starts to leave the plateau, found none; "
        "try other seeds (--training.seed)"
    )


@contextmanager
def _first_rank_first() -> Iterator[None]:
    """What is made inside is made by the first rank while the others wait, and found by them."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if several and torch.distributed.get_rank() > 0:
        torch.distributed.barrier()
    yield
    if several and torch.distributed.get_rank() == 0:
        torch.distributed.barrier()


def _prepared(config: RecipeConfig) -> Gallery:
    clip = config.work / "clip"
    with _first_rank_first():
        train_tower(config.tower, clip, config.work)
        model = make_video_model(config.language, clip, config.training.seed)
        return Gallery(model, config.tower.seed, config.variants, config.work)


def _run(trainer: Trainer, config: RecipeConfig, state: Path) -> bool:
    """Steps until the end; False if this start is stuck."""
    begun, steps = time.monotonic(), 0
    while not trainer.progress.finished and steps != config.stop_after_steps:
        stage = trainer.stage.name
        report = trainer.step()
        steps += 1
        if trainer.rank == 0 and (trainer.progress.step % 20 == 0 or trainer.progress.stage_step == 0):
            _show(trainer, stage, report, trainer.progress.seconds + time.monotonic() - begun)
        if trainer.stuck:
            return False
        elapsed = time.monotonic() - begun
        if elapsed > config.save_seconds:
            trainer.progress.seconds += elapsed
            begun = time.monotonic()
            trainer.save(state)
    trainer.progress.seconds += time.monotonic() - begun
    trainer.save(state)
    return True


def _show(trainer: Trainer, stage: str, report: dict[str, float], seconds: float) -> None:
    progress = trainer.progress
    shown = " ".join(f"{name} {value:.2f}" for name, value in sorted((progress.accuracy or report).items()))
    shown = f"earlier {report['earlier']:.2f} {shown}"
    print(
        f"seed {progress.seed} step {progress.step} {seconds:.0f} s {stage}: loss {report['loss']:.3f} {shown}",
        flush=True,
    )


def main(config: RecipeConfig) -> None:
    """Trains to the end, then exports, measures and writes the card."""
    trainer = train(config)
    if not trainer.progress.finished or trainer.rank > 0:
        return
    model = trainer.model.eval()
    export(model, config.work / "clip", config.out)
    progress = asdict(trainer.progress)
    kept = {name: progress[name] for name in ("seed", "abandoned", "step", "questions", "seconds", "stage_steps")}
    training = {**asdict(config.training), **kept, "language": asdict(config.language), "tower": asdict(config.tower)}
    training["alignment"] = asdict(config.alignment)
    training["curriculum"] = [asdict(stage) for stage in CURRICULUM]
    write_card(model, config.out, training, config.clips)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(RecipeConfig, description=__doc__))
