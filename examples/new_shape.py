"""A model of a new shape by an adapter of its own: `python examples/new_shape.py`.

Whisper hears with an encoder and writes with a decoder, whose self-attention is what a memory can govern; without an
adapter `attach` refuses such models. The one below puts a small module in place of that attention, and takes it out
again. `namm-check examples/new_shape.py:build` examines it.
"""
# ruff: noqa: I001  (modalities comes before transformers)

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modalities import Adapter, attach, register
from modalities.conformance.subject import Subject, module_subject
from namm import Memory
from namm.policies import Policy, make_policy
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput


class OnMemory(nn.Module):
    """The self-attention of one decoder layer, on a memory."""

    def __init__(self, stock: nn.Module, memory: Memory, layer: int) -> None:
        super().__init__()
        self.stock, self.memory, self.layer = stock, memory, layer

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        """What the stock module gives, for new tokens alone."""
        stock = self.stock
        projected = (
            stock.q_proj(hidden_states) * stock.scaling,
            stock.k_proj(hidden_states),
            stock.v_proj(hidden_states),
        )
        heads = (states.unflatten(-1, (stock.num_heads, -1)).transpose(1, 2) for states in projected)
        out = self.memory.attend(self.layer, *heads, scale=1.0)
        return stock.out_proj(out.transpose(1, 2).flatten(2)), None


@register
class WhisperAdapter(Adapter):
    """Whisper's decoder."""

    name: ClassVar[str] = "Whisper"

    def takes(self, model: Any) -> bool:
        """See Adapter."""
        return isinstance(model, WhisperForConditionalGeneration)

    @contextmanager
    def attach(self, model: Any, policy: Policy, *, store: str = "packed") -> Iterator[Memory]:
        """Every layer of the decoder calls the memory inside the block."""
        layers = model.model.decoder.layers
        stock, memory = [layer.self_attn for layer in layers], Memory(policy, len(layers), store)
        try:
            for index, layer in enumerate(layers):
                layer.self_attn = OnMemory(layer.self_attn, memory, index)
            yield memory
        finally:
            for layer, own in zip(layers, stock, strict=True):
                layer.self_attn = own

    def subject(self, model: Any, name: str | None = None) -> Subject:
        """It is examined writing about a sound."""
        sound = hear(model, torch.randn(1, 80, 40, generator=torch.Generator().manual_seed(0)))
        return module_subject(
            model,
            attach=lambda policy: self.attach(model, policy),
            forward=lambda ids, mask: write(model, sound, ids),
            tokens=model.config.vocab_size,
            name=name,
            padded=False,  # every prompt of Whisper begins with the same tokens
        )


def hear(model: Any, spectrogram: Tensor) -> Tensor:
    """What the encoder makes of a sound."""
    return model.model.encoder(spectrogram.to(model.dtype)).last_hidden_state


def write(model: Any, sound: Tensor, ids: Tensor) -> Tensor:
    """Logits of tokens: of a whole text, or inside `attach` of those that are new."""
    attention = model.model.decoder.layers[0].self_attn
    seen = attention.memory.seen if isinstance(attention, OnMemory) else torch.zeros(0)
    begun = seen[:, None].long() if seen.numel() else torch.zeros(1, 1, dtype=torch.long)
    return model(
        encoder_outputs=BaseModelOutput(sound.to(model.dtype).expand(ids.shape[0], -1, -1)),
        decoder_input_ids=ids,
        decoder_position_ids=(begun + torch.arange(ids.shape[1])).expand(ids.shape[0], -1),
        use_cache=False,
    ).logits


def build() -> WhisperForConditionalGeneration:
    """A small Whisper with random weights; `from_pretrained("openai/whisper-tiny")` goes the same way."""
    torch.manual_seed(0)
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_model": 32, "vocab_size": 96, "max_source_positions": 20}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    model = WhisperForConditionalGeneration(WhisperConfig(**sizes, **special))
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.2)
    return model.eval()


@torch.inference_mode()
def main() -> None:
    """Hears a sound, writes 120 tokens about it, and says what was held."""
    model = build()
    sound = hear(model, torch.randn(1, 80, 40, generator=torch.Generator().manual_seed(1)))
    with attach(model, make_policy("tova", interval=16, budget=24)) as memory:
        token = torch.ones(1, 1, dtype=torch.long)
        for _ in range(120):
            token = write(model, sound, token)[:, -1:].argmax(-1)
    print(memory.report())


if __name__ == "__main__":
    main()
