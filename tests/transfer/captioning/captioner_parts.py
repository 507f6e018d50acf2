"""Small parts that the captioner's tests share."""

from __future__ import annotations

from mmengine.model import BaseModule
from torch import Tensor, nn

from sparc_pretrain.registry import MODELS

SIZE = 32
CAPTIONS = [
    "a red square on the left",
    "two green circles and a dog",
    "the sky",
    "a blue cat sits under a small yellow table near the door",
]
_COMMON = dict(
    num_hidden_layers=2, hidden_size=32, num_attention_heads=4, max_position_embeddings=256
)
_GROUPED = dict(_COMMON, num_key_value_heads=2, intermediate_size=64)
# language models by the architecture families that transformers builds from a config
FAMILIES = {
    "gpt2": dict(model_type="gpt2", n_layer=2, n_embd=32, n_head=4, n_positions=256),
    "opt": dict(_COMMON, model_type="opt", ffn_dim=64, word_embed_proj_dim=32),
    "pythia": dict(_COMMON, model_type="gpt_neox", intermediate_size=64),
    "qwen2": dict(_GROUPED, model_type="qwen2"),
    "llama": dict(_GROUPED, model_type="llama"),
}


@MODELS.register_module()
class ToyBackbone(BaseModule):
    """[B,3,H,W] -> one map [B,16,H/8,W/8]; dropout and batch norm tell training from eval."""

    out_channels = 16

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.BatchNorm2d(16), nn.Dropout(0.5))

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.net(image),)
