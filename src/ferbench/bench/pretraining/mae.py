"""MAE: an encoder sees a quarter of the patches, a light decoder paints the others.

Paper: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022; SSFER (Song et al.), stage (a):
"reconstruct the normalized pixel values of each masked patch".

Differences between SSFER's text and its released code:
1. The text normalises each patch of the target by its own mean and variance, the code builds the model without that
   switch and predicts the standardised pixels: `norm_pix`, paper true, released false.
2. The code's rate in epoch e of E is that times min((e + 1) / 50, (1 + cos(pi e / E)) / 2), changed once an epoch. Here
   it rises from 0 over 50 epochs and then falls along a cosine, changed at every step, as He et al.'s does.
3. The code's defaults are 800 epochs and 64 images on each GPU, the text's 600 and 256, which stand in the name of the
   released weights as well (`--set epochs=800`, `--set batch_size=...`).
4. The code decays all parameters. He et al.'s code decays neither biases nor normalisations, but the class and mask
   tokens, which have three dimensions there; here they are not decayed. `--set decay_all=true` decays all.
`--variant released` is the first alone: a variant changes options, not settings.
Ours: `positions = "learned"` starts from the same sine-cosine table and lets it train; `decoder_*` default to He et
al.'s for ViT-Base, a smaller encoder is better served by a smaller decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ferbench.bench.pretraining import vit
from ferbench.bench.pretraining.objective import Masked, mask_of, random_order

EPSILON = 1e-6  # added to a patch's variance


@dataclass(frozen=True)
class MAEOptions:
    """mask_ratio: share of patches taken out; norm_pix: targets standardised patch by patch; positions: whether the
    encoder's position table is fixed; decoder: width, blocks and heads."""

    mask_ratio: float = 0.75
    norm_pix: bool = True
    positions: Literal["sincos", "learned"] = "sincos"
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1 or min(self.decoder_width, self.decoder_depth, self.decoder_heads) < 1:
            raise ValueError("mask_ratio must lie between 0 and 1, and the decoder's sizes be at least 1")


class MAE(Masked):
    positions: Tensor

    Options = MAEOptions
    released: ClassVar[Mapping[str, object]] = {"norm_pix": False}
    paper = "He et al., CVPR 2022"

    def __init__(self, encoder: nn.Module, options: MAEOptions, size: int) -> None:
        super().__init__(encoder, options, size)
        vit.check_plain(encoder, "mae")
        self.mask_ratio = options.mask_ratio
        if not 0 < self.kept < self.patches:
            raise ValueError(f"mask_ratio={self.mask_ratio} of {self.patches} patches leaves none on one side")
        self.side = int(self.encoder.patch_embed.patch_size[0])
        grid, width = int(self.encoder.patch_embed.grid_size[0]), options.decoder_width
        self.embed = nn.Linear(self.encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", vit.sincos_positions(width, grid), persistent=False)
        self.decoder = nn.Sequential(
            *(Block(width, options.decoder_heads, qkv_bias=True) for _ in range(options.decoder_depth)),
            nn.LayerNorm(width, eps=1e-6),
        )
        self.paint = nn.Linear(width, self.side**2 * 3)
        self._initialise(grid)

    @torch.no_grad()
    def _initialise(self, grid: int) -> None:
        self.apply(vit.initialise)
        kernel = self.encoder.patch_embed.proj.weight
        nn.init.xavier_uniform_(kernel.view(len(kernel), -1))
        nn.init.normal_(self.encoder.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        self.encoder.pos_embed.copy_(vit.sincos_positions(self.encoder.embed_dim, grid))
        self.encoder.pos_embed.requires_grad_(self.options.positions == "learned")

    @property
    def patches(self) -> int:
        return int(self.encoder.patch_embed.num_patches)

    def targets(self, images: Tensor) -> Tensor:
        pixels = vit.patchify(images, self.side)
        if not self.options.norm_pix:
            return pixels
        variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)
        return (pixels - mean) / (variance + EPSILON).sqrt()

    def reconstruct(self, images: Tensor, order: Tensor, kept: int) -> Tensor:
        seen = vit.take(vit.tokens(self.encoder, images), order[:, :kept])
        encoded = self.embed(vit.encode(self.encoder, seen))
        blank = self.mask_token.to(encoded.dtype).expand(len(images), order.shape[1] - kept, -1)
        back = order.argsort(dim=1)  # where each patch stands among the seen and the blank ones
        patches = vit.take(torch.cat([encoded[:, 1:], blank], dim=1), back)
        sequence = torch.cat([encoded[:, :1], patches], dim=1) + self.positions
        painted: Tensor = self.paint(self.decoder(sequence)[:, 1:])
        return painted

    def panels(self, images: Tensor, noise: Tensor) -> Tensor:
        """The image, the image as the encoder sees it (grey where masked), and the reconstruction in the gaps."""
        order = random_order(noise)
        predicted = self.reconstruct(images, order, self.kept).float()
        pixels = vit.patchify(images, self.side)
        if self.options.norm_pix:  # back to the brightness and contrast that the target took away
            variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)
            predicted = predicted * (variance + EPSILON).sqrt() + mean
        mask = mask_of(order, self.kept).unsqueeze(2)
        shown = [pixels, torch.where(mask, 0.0, pixels), torch.where(mask, predicted, pixels)]
        return torch.stack([vit.unpatchify(patches, self.side) for patches in shown], dim=1)
