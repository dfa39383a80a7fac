"""A NAMM: its constants, its numbers (4172 as released), and the feature statistics of the model it was evolved on.

On disk it is a folder of two files, as on the Hugging Face Hub: ``config.json`` (flat) and ``model.safetensors``
(``flat``, ``statistics_mean``, ``statistics_deviation``). Reading is strict and never executes anything.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from namm.config import NAMMConfig
from namm.errors import CheckpointError
from namm.features import FeatureStatistics, recency_embedding, z_score
from namm.scorers import make_scorer
from namm.spectrogram import dft_basis

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class NAMM(nn.Module):
    """Token spectra and ages to scores. Parameters are evolved, so none requires a gradient."""

    # buffers, so that they follow the module from device to device
    flat: Float[Tensor, " params"]
    statistics_mean: Float[Tensor, "*any bins"]
    statistics_deviation: Float[Tensor, "*any bins"]
    basis: Tensor

    def __init__(
        self,
        config: NAMMConfig | None = None,
        flat: Float[Tensor, " params"] | None = None,
        statistics: FeatureStatistics | None = None,
    ) -> None:
        """A NAMM; all zeros (keeps everything) unless parameters are given.

        Args:
            config: Constants; released values by default.
            flat: Parameters in the order of the scorer's ``shapes``.
            statistics: Of the source model; mean 0 and deviation 1 by default.

        Raises:
            ConfigError: ``flat`` has the wrong length.
        """
        super().__init__()
        self.config = config or NAMMConfig()
        self.scorer = make_scorer(self.config)
        if flat is None:
            flat = torch.zeros(self.scorer.params)
        self.scorer.unpack(flat.unsqueeze(0))
        if statistics is None:
            statistics = FeatureStatistics(torch.zeros(1, self.config.bins), torch.ones(1, self.config.bins))
        self.register_buffer("flat", flat.detach().to(torch.float32).clone())
        self.register_buffer("statistics_mean", statistics.mean.detach().float().clone())
        self.register_buffer("statistics_deviation", statistics.deviation.detach().float().clone())
        self._ages_have_ended = False
        self.register_buffer("basis", dft_basis(self.config.window), persistent=False)

    @property
    def statistics(self) -> FeatureStatistics:
        """The source's mean and deviation of each frequency bin."""
        return FeatureStatistics(self.statistics_mean, self.statistics_deviation)

    def token_features(
        self,
        spectrum: Float[Tensor, "batch kv_heads slots bins"],
        age: Int[Tensor, "batch kv_heads slots"],
        mean: Float[Tensor, "*any bins"],
        deviation: Float[Tensor, "*any bins"],
        of_keys: Float[Tensor, "batch kv_heads slots signals"] | None = None,
    ) -> Float[Tensor, "batch kv_heads slots features"]:
        """Age embedding (8), then z-scored spectrum (17), then key signals as they are.

        Args:
            spectrum: Of each token; no bins for a NAMM that reads no attention.
            age: In tokens.
            mean: Of the spectrum, by the statistics in force.
            deviation: Likewise.
            of_keys: Of the config's key signals; None where it has none.

        A token older than the config's ``max_age`` counts as so old, which is said once in a warning.
        """
        if age.numel() and int(age.max()) > self.config.max_age:
            self._say_once_that_ages_end(int(age.max()))
            age = age.clamp_max(self.config.max_age)
        recency = recency_embedding(age, self.config.recency_dim, self.config.recency_max_frequency)
        parts = [recency, z_score(spectrum, mean, deviation)]
        return torch.cat(parts if of_keys is None else [*parts, of_keys], dim=-1)

    def _say_once_that_ages_end(self, found: int) -> None:
        if not self._ages_have_ended:
            self._ages_have_ended = True
            warnings.warn(
                f"This NAMM tells ages up to {self.config.max_age} tokens apart, and a token held is {found} old: it "
                "counts as no older than that, as others will. Save the NAMM with a larger max_age to tell them apart.",
                stacklevel=4,
            )

    def sha256(self) -> str:
        """Identity of what this NAMM computes: its config, parameters and statistics."""
        digest = hashlib.sha256(self.config.to_json().encode())
        for part in (self.flat, self.statistics_mean, self.statistics_deviation):
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``config.json`` and ``model.safetensors``, each whole or not at all.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        folder = Path(folder)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_whole(folder / WEIGHTS_FILE, save(tensors, metadata={"format": "pt"}))
            _write_whole(folder / CONFIG_FILE, self.config.to_json().encode())
        except OSError as error:
            raise CheckpointError(f"Cannot save the NAMM in {folder}: {error}. Choose a writable folder.") from error

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> NAMM:
        """Reads a folder written by :meth:`save_pretrained`.

        Raises:
            CheckpointError: A file is missing, truncated, of another shape, or holds NaN or infinity.
        """
        folder = Path(folder)
        if folder.is_file():
            raise CheckpointError(
                f"Expected the folder of a NAMM, found the file {folder}; name the folder that holds {CONFIG_FILE} and "
                f"{WEIGHTS_FILE}. A ckpt.pt of the released trainer becomes one by `python -m namm.compat`."
            )
        config = NAMMConfig.from_json(folder / CONFIG_FILE)
        path = folder / WEIGHTS_FILE
        try:
            tensors = load_file(path)
        except FileNotFoundError:
            raise CheckpointError(f"Expected NAMM weights at {path}; the file does not exist.") from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a whole safetensors file ({error}); copy it again.") from error
        expected = {
            "flat": (make_scorer(config).params,),
            "statistics_mean": (None, config.bins),
            "statistics_deviation": (None, config.bins),
        }
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        fits = set(found) == set(expected) and all(
            len(found[name]) == len(shape)
            and all(want in (None, have) for want, have in zip(shape, found[name], strict=True))
            for name, shape in expected.items()
        )
        if not fits:
            raise CheckpointError(f"{path} does not fit its config: expected {expected}, found {found}.")
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                raise CheckpointError(f"{path}: expected floats in {name}, found {tensor.dtype}; save the NAMM again.")
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"{path}: {name} holds NaN or infinity; the checkpoint is damaged.")
        pair = found["statistics_mean"], found["statistics_deviation"]
        if pair[0] != pair[1] or not pair[0][0]:
            raise CheckpointError(
                f"{path}: expected a mean and a deviation for each layer, found {pair}; measure them again."
            )
        least = float(tensors["statistics_deviation"].min()) if config.bins else 1.0
        if least <= 0.0:
            raise CheckpointError(
                f"{path}: expected deviations above 0 in statistics_deviation, found {least:g}; measure them again."
            )
        statistics = FeatureStatistics(tensors["statistics_mean"], tensors["statistics_deviation"])
        return cls(config, tensors["flat"], statistics)


def _write_whole(path: Path, content: bytes) -> None:
    """Writes beside the target and renames, so that a reader never meets half a file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    os.chmod(path, 0o644)
