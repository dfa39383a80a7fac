"""Every constant of a NAMM, with the released configuration as default.

A config is flat on purpose: it is written as one JSON object beside the weights and read back strictly.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from namm.errors import CheckpointError, ConfigError, UnknownNameError, did_you_mean
from namm.signals import ATTENTION_SIGNALS, SIGNALS
from namm.typed import Count, Natural, Origin, Positive, build, check_fields, read_json

EARLIER_SIGNAL = "signal"
"""Key of a config's only signal before there could be several."""


@dataclass(frozen=True)
class NAMMConfig:
    """What a Neural Attention Memory Model computes (arXiv 2410.13166, section 3 and the released run files)."""

    window: Count = 32
    """Queries in one STFT window; also the DFT length."""

    hop: Count = 16
    """Queries between two STFT frames; every update interval is a multiple of it."""

    decay: float = 0.99
    """EMA decay per query; one frame decays by ``decay ** hop``."""

    recency_dim: Natural = 8
    """Width of the sinusoidal embedding of a token's age; 0 for none (the paper's ablation)."""

    recency_max_frequency: Positive = 50_000.0
    """Longest wavelength base of the age embedding."""

    max_age: Natural = 32_768
    """Largest age in tokens; older tokens count as so old, which is said once."""

    scorer: str = "bam"
    """Scorer network: backward attention ("bam") or token-wise ("mlp")."""

    hidden: Count = 32
    """Width of the scorer's attention (bam) or hidden layer (mlp)."""

    interval: int = 512
    """Tokens between two updates, the default when attached to text; a modality may set its own."""

    trained_statistics: str = "source"
    """Feature statistics in force while the parameters were evolved; part of a checkpoint's identity."""

    signals: tuple[str, ...] = field(default=("spectrogram",), metadata={"added_later": True})
    """What is read of a token besides its age, in order; names are those of `namm.signals`. At most one of attention,
    and that first: "spectrogram" as published, or "mean". Then of keys and values, as "key_difference"."""

    def __post_init__(self) -> None:
        check_fields(self, Origin("a NAMM's config"))
        if self.window != 2 * self.hop:
            raise ConfigError(
                f"window must be twice the hop (half-overlapping Hann frames), found window={self.window}, "
                f"hop={self.hop}; use window={2 * self.hop}."
            )
        if self.recency_dim % 2:
            raise ConfigError(f"recency_dim must be even (sines and cosines), found {self.recency_dim}.")
        if not 0.0 < self.decay < 1.0:
            raise ConfigError(f"decay must lie between 0 and 1, found {self.decay}.")
        if self.scorer not in ("bam", "mlp"):
            raise ConfigError(f"Unknown scorer {self.scorer!r}. {did_you_mean(str(self.scorer), ('bam', 'mlp'))}")
        self._check_signals()
        check_interval(self.interval, self.hop)

    def _check_signals(self) -> None:
        """Raises ConfigError unless the signals are known, each there once, that of attention first."""
        for name in self.signals:
            if name not in SIGNALS:
                raise ConfigError(f"Unknown signal {name!r}. {did_you_mean(str(name), SIGNALS)}")
        if len(set(self.signals)) != len(self.signals) or any(name in ATTENTION_SIGNALS for name in self.signals[1:]):
            raise ConfigError(
                f"Signals are listed once each, at most one of attention ({' or '.join(ATTENTION_SIGNALS)}) and that "
                f"first; found {self.signals}."
            )
        if not self.features:
            raise ConfigError("A NAMM without signals and without recency reads nothing; name a signal.")

    @property
    def attention(self) -> str | None:
        """The signal of attention; None for a NAMM that reads no attention."""
        return self.signals[0] if self.signals and self.signals[0] in ATTENTION_SIGNALS else None

    @property
    def of_keys(self) -> tuple[str, ...]:
        """The signals that are computed from what a head holds, in order."""
        return tuple(name for name in self.signals if name not in ATTENTION_SIGNALS)

    @property
    def bins(self) -> int:
        """Numbers seen of attention: one-sided DFT bins of a frame (17), 1 for the mean, 0 for none."""
        return {"spectrogram": self.window // 2 + 1, "mean": 1, None: 0}[self.attention]

    @property
    def features(self) -> int:
        """Width of a token's feature vector: age embedding, then z-scored attention (25), then one a key signal."""
        return self.recency_dim + self.bins + len(self.of_keys)

    @classmethod
    def preset(cls, name: str) -> NAMMConfig:
        """The constants of a named configuration; "released" are those of the paper's own code.

        Raises:
            UnknownNameError: No such preset.
        """
        if name not in PRESETS:
            raise UnknownNameError(f"Unknown NAMM configuration {name!r}. {did_you_mean(name, PRESETS)}")
        return PRESETS[name]

    def to_json(self) -> str:
        """The config as one flat JSON object.

        A key that an earlier version did not know is left out while it has its default, so that what was saved then
        keeps its identity.
        """
        later = {key.name: key.default for key in dataclasses.fields(self) if key.metadata.get("added_later")}
        values = {name: value for name, value in dataclasses.asdict(self).items() if later.get(name) != value}
        if self.signals == ("mean",):  # written by versions that knew one signal
            values[EARLIER_SIGNAL] = values.pop("signals")[0]
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, path: Path) -> NAMMConfig:
        """Reads a config strictly: every key known, every key present but those that `to_json` leaves out.

        Raises:
            CheckpointError: The file is missing, not JSON, has missing or unknown keys, or a value of another kind.
        """
        origin = Origin(str(path), CheckpointError, "save it again with NAMM.save_pretrained")
        later = [key.name for key in dataclasses.fields(cls) if key.metadata.get("added_later")]
        raw = read_json(path)
        if isinstance(raw, dict) and EARLIER_SIGNAL in raw and "signals" not in raw:
            raw = {"signals": [raw[EARLIER_SIGNAL]]} | {key: raw[key] for key in raw if key != EARLIER_SIGNAL}
        return build(cls, raw, origin, optional=later)


def check_interval(interval: int, hop: int = 16) -> None:
    """Raises ConfigError unless an update interval is a positive multiple of the STFT hop."""
    if interval < hop or interval % hop:
        below = max(hop, interval // hop * hop)
        raise ConfigError(
            f"The update interval must be a positive multiple of the hop ({hop} tokens), found {interval}; "
            f"use {below} or {below + hop}."
        )


PRESETS = {
    "released": NAMMConfig(
        window=32, hop=16, decay=0.99, recency_dim=8, recency_max_frequency=50_000.0, max_age=32_768, scorer="bam",
        hidden=32, interval=512, trained_statistics="source",
    ),
}  # fmt: skip
"""Named configurations. How the released one selects and attends is the policy preset ``namm:released``."""
