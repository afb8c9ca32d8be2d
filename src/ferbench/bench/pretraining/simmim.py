"""SimMIM: the encoder sees the whole image, squares of it blank, and tells the blank ones' pixels.

Paper: Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022; a row of PLL-FER's Table VII.
L1 distance between the standardised pixels and those a linear head predicts, over the masked ones.

1. PLL-FER's Table III prints "75%(60%)" and "16(32)" for the mask ratio and the masked squares: the brackets are
   SimMIM's own values, the defaults here, the others PLL-FER's (`ferbench pretrain simmim --recipe pll`).
2. A transformer's blank patches are a learnt token. A ConvNet has none: there a learnt colour fills the squares, and
   the head reads the last feature map. That way is ours, not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ferbench.bench.pretraining import maps, vit
from ferbench.bench.pretraining.maskfeat import blanked
from ferbench.bench.pretraining.objective import Masked, mask_of, random_order


@dataclass(frozen=True)
class SimMIMOptions:
    """mask_ratio: share of squares that are blank; square: pixels a side, for a transformer a multiple of a patch's."""

    mask_ratio: float = 0.6
    square: int = 32


class SimMIM(Masked):
    """A square stands for what `Masked` calls a patch: `patches`, `targets` and the loss count squares."""

    Options = SimMIMOptions
    paper = "Xie et al., CVPR 2022"

    def __init__(self, encoder: nn.Module, options: SimMIMOptions, size: int) -> None:
        super().__init__(encoder, options, size)
        self.mask_ratio = options.mask_ratio
        self.convolutional = maps.has_map(encoder)
        if self.convolutional:
            width, self.side = maps.cells(encoder, size, "simmim")
            unit, blank = 1, [1, 3, 1, 1]
        else:
            vit.check_plain(encoder, "simmim")
            width, self.side = self.encoder.embed_dim, int(self.encoder.patch_embed.patch_size[0])
            unit, blank = self.side, [1, 1, width]
        if options.square % unit or size % options.square:
            raise ValueError(f"squares of {options.square} pixels do not fit patches of {unit} in {size} pixels")
        self.squares = size // options.square  # in a row
        self.mask_token = nn.Parameter(torch.empty(blank))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.head = nn.Linear(width, self.side**2 * 3)

    @property
    def patches(self) -> int:
        return int(self.squares**2)

    def targets(self, images: Tensor) -> Tensor:
        return vit.patchify(images, self.options.square)

    def reconstruct(self, images: Tensor, order: Tensor, kept: int) -> Tensor:
        painted = self.head(self._tokens(images, order, kept))
        return vit.patchify(vit.unpatchify(painted, self.side), self.options.square)

    def _tokens(self, images: Tensor, order: Tensor, kept: int) -> Tensor:
        """[B, L, D]: the encoder's view of images whose squares but order[:, :kept] are blank."""
        if self.convolutional:
            square = mask_of(order, kept).unsqueeze(2).expand(-1, -1, self.options.square**2)
            blank = vit.unpatchify(square, self.options.square)
            return maps.tokens(self.encoder, torch.where(blank, self.mask_token.to(images.dtype), images))
        inner = self._order_of_patches(order, kept)
        return vit.encode(self.encoder, blanked(self.encoder, images, self.mask_token, *inner))[:, 1:]

    def error(self, predicted: Tensor, target: Tensor) -> Tensor:
        return (predicted.float() - target.float()).abs().mean(dim=-1)

    def _order_of_patches(self, order: Tensor, kept: int) -> tuple[Tensor, int]:
        """An order of the L patches in which those of the first `kept` squares come first, and how many they are."""
        times = self.options.square // self.side
        blank = mask_of(order, kept).reshape(-1, self.squares, 1, self.squares, 1)
        patches = blank.expand(-1, -1, times, -1, times).reshape(len(order), -1)
        return patches.byte().argsort(dim=1, stable=True), kept * times**2

    def panels(self, images: Tensor, noise: Tensor) -> Tensor:
        """The image, the image with its blank squares grey, and the reconstruction in the gaps."""
        order = random_order(noise)
        pixels, predicted = self.targets(images), self.reconstruct(images, order, self.kept).float()
        mask = mask_of(order, self.kept).unsqueeze(2)
        shown = [pixels, torch.where(mask, 0.0, pixels), torch.where(mask, predicted, pixels)]
        return torch.stack([vit.unpatchify(part, self.options.square) for part in shown], dim=1)
