"""Trains the small Llama that recalls: `python checkpoints/recipes/recall_llama.py`.

A curriculum: an endless key/value stream with a loss on every value seen before (4 to 64 active keys), with spans and
chains of assignments that are dense in the same way; then more filler; then the four recall tasks; then jumping
positions and long contexts. Rows of real text are mixed in throughout. A start that stays on the plateau is dropped for
the next seed. Killed at any time, the same command goes on; at the end the model is measured on test seeds and written
with its card.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from checkpoints.recipes.recall_llama_card import export, write_card
from checkpoints.recipes.recall_llama_model import ModelConfig
from checkpoints.recipes.recall_llama_trainer import Progress, Stage, Trainer, TrainingConfig
from evaluations.tasks.recall.corpus import RecallVocabulary, train_tokenizer
from namm.errors import NammError

STREAM = {"stream": 4.0, "spans": 4.0, "chains": 1.0, "text": 1.0}
DENSE = {"stream": 1.5, "spans": 3.0, "chains": 4.0, "text": 1.0}
ALL = {
    "stream": 0.5,
    "spans": 1.5,
    "chains": 1.5,
    "pairs": 1.5,
    "passkey": 1.0,
    "copy": 1.0,
    "variables": 1.5,
    "text": 1.0,
}
LONG = {"spans": 1.5, "chains": 1.0, "pairs": 1.5, "passkey": 1.0, "copy": 2.0, "variables": 1.5, "text": 1.0}

CURRICULUM = (
    Stage("stream-4", (128,), STREAM, active=4, filler=(0.0, 0.3), judged=("stream",)),
    Stage("stream-8", (128,), STREAM, active=8, filler=(0.0, 0.3), judged=("stream",)),
    Stage("stream-16", (192,), STREAM, active=16, filler=(0.0, 0.3), judged=("stream",)),
    Stage("stream-32", (256,), STREAM, active=32, filler=(0.0, 0.3), judged=("stream",), steps=1500),
    Stage("stream-64", (384,), STREAM, active=64, filler=(0.0, 0.3), judged=("stream",), steps=1500),
    Stage("dense", (128, 192), DENSE, active=32, filler=(0.0, 0.75), steps=1500, until=0.9),
    Stage("tasks-256", (128, 192, 256), ALL, active=32, filler=(0.3, 0.85), steps=1500, until=0.93),
    Stage("jumps", (192, 256, 384), ALL, active=32, filler=(0.5, 0.9), span=2048, steps=1300),
    Stage("tasks-512", (384, 512, 768), LONG, filler=(0.6, 0.9), span=4096, steps=250, until=2.0),
    Stage(
        "long", (768, 1024, 1536), LONG, filler=(0.7, 0.95), span=4096, steps=300, until=2.0, learning_rate=(1.0, 0.2)
    ),
    Stage("longer", (1536, 2048, 3072), LONG, filler=(0.7, 0.95), steps=40, until=2.0, learning_rate=(0.2, 0.02)),
)


@dataclass(frozen=True)
class RecipeConfig:
    """What the command line sets."""

    out: Path = Path("checkpoints/text/recall-llama")
    """Where the finished model goes."""
    work: Path = Path("runs/recall-llama")
    """Where the state of the training lies, for going on."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Shape and start of the model."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Seed, optimiser, threads."""
    save_seconds: float = 60.0
    """Seconds between two saves of the state."""
    prompts: int = 200
    """Test prompts per task and length on the card."""
    stop_after_steps: int | None = None
    """End this process after so many steps, as if killed (the state is saved, no model is written)."""


def train(
    config: RecipeConfig, curriculum: tuple[Stage, ...] = CURRICULUM, vocabulary: RecallVocabulary | None = None
) -> Trainer:
    """Trains, or goes on with the training in `config.work`, until the curriculum ends or `stop_after_steps`.

    Args:
        config: folders, model and optimiser.
        curriculum: the stages, in order.
        vocabulary: tokens and text; None trains the tokenizer first.

    Raises:
        NammError: if every start got stuck.
    """
    torch.set_num_threads(config.training.threads)
    config.work.mkdir(parents=True, exist_ok=True)
    path = config.work / "state.safetensors"
    vocabulary = vocabulary or RecallVocabulary(train_tokenizer())
    trainer = Trainer(config.model, config.training, curriculum, vocabulary, Progress(config.training.seed))
    if path.exists():
        trainer.restore(path)
    begun, steps = time.monotonic(), 0
    while not trainer.progress.finished and steps != config.stop_after_steps:
        stage = trainer.stage.name
        report = trainer.step()
        steps += 1
        if trainer.progress.step % 50 == 0 or trainer.progress.stage_step == 0:
            _show(trainer.progress, stage, report)
        if trainer.stuck:
            trainer = trainer.restarted()
            print(f"seeds {trainer.progress.abandoned} got stuck: trying seed {trainer.progress.seed}", flush=True)
            if len(trainer.progress.abandoned) >= config.training.starts:
                raise NammError(
                    f"expected one of {config.training.starts} starts to leave the plateau, found none; "
                    "try other seeds (--training.seed)"
                )
        elapsed = time.monotonic() - begun
        if elapsed > config.save_seconds:
            trainer.progress.seconds += elapsed
            begun = time.monotonic()
            trainer.save(path)
    trainer.progress.seconds += time.monotonic() - begun
    trainer.save(path)
    return trainer


def _show(progress: Progress, stage: str, report: dict[str, float]) -> None:
    shown = " ".join(f"{name} {value:.3f}" for name, value in sorted((progress.accuracy or report).items()))
    print(f"seed {progress.seed} step {progress.step} tokens {progress.tokens:,} {stage}: {shown}", flush=True)


def main(config: RecipeConfig) -> None:
    """Trains to the end, then exports, measures and writes the card."""
    trainer = train(config)
    if not trainer.progress.finished:
        return
    model = trainer.model.eval()
    export(model, trainer.vocabulary, config.out)
    progress = asdict(trainer.progress)
    kept = {name: progress[name] for name in ("seed", "abandoned", "step", "tokens", "seconds", "stage_steps")}
    training = {**kept, **asdict(config.training), "seed": trainer.progress.seed, "model": asdict(config.model)}
    training["curriculum"] = [asdict(stage) for stage in CURRICULUM]
    write_card(model, trainer.vocabulary, config.out, training, config.prompts)


if __name__ == "__main__":
    import tyro

    from namm.terminal import any_terminal

    with any_terminal():
        main(tyro.cli(RecipeConfig, description=__doc__))
