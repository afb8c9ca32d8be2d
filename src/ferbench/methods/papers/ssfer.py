"""SSFER: fine-tuning with FaceMix, then with an EMA teacher: the stages (b) and (c) of three.

Paper: Song et al., "Bridging the Gaps: Utilizing Unlabeled Face Recognition Datasets to Boost Semi-Supervised Facial
Expression Recognition". Stage (a), pre-training, is `ferbench pretrain mae`; stage (b) is `mix="facemix"`,
`teacher=False`; stage (c) is `mix="none"`, `teacher=True` and starts after a run of stage (b) (a row's `after`).

    Eq. 1   theta_t <- m theta_t + (1 - m) theta_s                      `decay`, `EmaTeacher`, batch statistics as well
    Eq. 2   L_l = mean CE(x^l, y^l)
    Eq. 3-4 L_u = mean 1[max p > tau] CE(strong(x^u), argmax p), p the teacher's on the weak view   `threshold`
    Eq. 5   L = L_l + mu L_u                                            `unlabelled_weight`
    Eq. 6-7 L_v = mean of the soft cross-entropy on mixed images
    Eq. 8-13 L_v and L_i + L_j, weighted by kappa = 1 - IoU             `kappa`, `mix_loss`

Eqs. 2 and 4 print a minus sign before cross-entropies that are losses already; Eq. 7's is cross-entropy's own. The
paper gives no value for tau, mu, m, the Beta distribution or the pairing; those of the code stand in. Where the
released code differs from the text (`--variant released` sets 1 to 3; 7 and 8 are the protocol's preset `released`,
since a variant changes no recipe):
1. The mixer overwrites its input, so L_i and L_j are hard-label cross-entropies on the mixed image, not on x_i and x_j:
   `unmixed="mixed"` (the paper's: "clean"; one more pass).
2. Mixed targets are smoothed by 0.1: `smoothing`.
3. The gate is >=, in the text >: `inclusive`.
4. Boxes are YOLO-face's, detected on the mixed, normalised image, and where it finds no face or several a constant one.
   Here, in both variants, they come with the data set (the reader's option `faces`: of several the largest) and go
   through the augmentation; without them, or where all are the whole image, kappa is 0, that is Mixup. The boxes are
   those of the cut-out views, as in the code: two faces in the same place of their images, cut out at random by a fifth
   of the area or more, have a kappa of 0.27 on average, so that much of what Eq. 9 weighs by is the augmentation, and
   not "head pose and angle".
5. In stage (b) an average of the weights is evaluated with m = 0.999 that starts from the MAE weights and a random head
   (after 1,500 steps 22 % of it are left), and again in stage (c), whose own teacher is never tested. Here stage (c)
   tests its teacher, and beside it the student; `decay_warmup` is there for short runs. The teacher starts as the
   student of stage (b).
6. Stage (c) draws labelled images anew; here its split is that of stage (b).
7. Stage (b): rate 1.5e-4, in the text 1e-4; 100 epochs also below 500 labels, in the text 1,000.
8. Stage (b): a cosine in steps of an epoch over the first 50 of 100 epochs, then its least rate. The text names no
   schedule; the protocol's is a cosine over all epochs.
With several processes pairs and lambda are per process, as Mixup usually is. SSIM and FSIM (Table 14) are piq's, whose
checks wait for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ferbench.kernels import pseudo_label
from ferbench.methods.base import (
    Facts,
    Labelled,
    Method,
    Model,
    Prediction,
    Progress,
    PseudoLabels,
    StepResult,
    Unlabelled,
    Views,
)
from ferbench.methods.blocks import facemix
from ferbench.methods.blocks.teacher import EmaTeacher
from ferbench.methods.consistency import cross_entropy
from ferbench.methods.single import untrained


@dataclass(frozen=True)
class SSFEROptions:
    """mix: what is done with labelled pairs; teacher: whether unlabelled images are taught by an averaged copy.

    kappa: what two faces' distance is measured by; mix_loss: L4 is Eq. 10, L1 to L3 are Eqs. 11-13; unmixed: on which
    image L_i and L_j are taken; beta: both parameters of lambda's distribution; smoothing: of mixed targets;
    threshold: tau; unlabelled_weight: mu; decay: m; decay_warmup: m grows towards its value as (1 + t) / (10 + t);
    statistics: the teacher's in batch normalisation, an average as its weights are, or those of each batch.
    """

    mix: Literal["facemix", "mixup", "none"] = "none"
    teacher: bool = True
    kappa: facemix.Measure = "iou"
    mix_loss: facemix.Rule = "L4"
    unmixed: Literal["clean", "mixed"] = "clean"
    beta: float = 1.0
    smoothing: float = 0.0
    threshold: float = 0.7
    inclusive: bool = False
    unlabelled_weight: float = 5.0
    decay: float = 0.999
    decay_warmup: bool = False
    # a teacher once had the student's statistics: neither of these
    statistics: Literal["averaged", "batch"] = field(
        default="averaged", metadata={"formerly": lambda values: "student's" if values["teacher"] else "averaged"}
    )

    def __post_init__(self) -> None:
        if self.beta <= 0 or not 0 <= self.smoothing < 1:
            raise ValueError(f"beta must be above 0 and smoothing in [0, 1), not {self.beta} and {self.smoothing}")


class SSFER(Method):
    Options = SSFEROptions
    released: ClassVar[Mapping[str, object]] = {"unmixed": "mixed", "smoothing": 0.1, "inclusive": True}
    paper = "Song et al., Bridging the Gaps (SSFER)"

    mean: Tensor
    std: Tensor

    def __init__(self, model: Model, options: SSFEROptions) -> None:
        super().__init__()
        assert isinstance(model, nn.Module)
        self.model = model
        self.options = options
        self.classes = model.num_classes
        self.teacher = make_teacher(model, options) if options.teacher else None
        self.views = Views(labelled=("weak",), unlabelled=("weak", "strong") if options.teacher else ())
        self.takes_boxes = self.needs_boxes(options)
        if options.mix == "facemix" and options.kappa in ("ssim", "fsim"):
            facemix.quality()  # before any training
        self.register_buffer("mean", torch.zeros(3), persistent=False)
        self.register_buffer("std", torch.ones(3), persistent=False)

    @classmethod
    def needs_boxes(cls, options: SSFEROptions) -> bool:
        return options.mix == "facemix" and options.kappa == "iou"

    def begin(self, facts: Facts) -> None:
        self.mean.copy_(torch.tensor(facts.mean))
        self.std.copy_(torch.tensor(facts.std))

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        losses = self._labelled(labelled)
        if self.teacher is None:
            return StepResult(losses)
        assert unlabelled is not None, "ssfer with a teacher needs unlabelled images"
        taught, pseudo = self._unlabelled(unlabelled)
        return StepResult(losses | {"unsupervised": taught}, pseudo)

    def after_step(self, labelled: Labelled, unlabelled: Unlabelled | None) -> None:
        if self.teacher is not None:
            self.teacher.update(self.model)

    def _labelled(self, labelled: Labelled) -> dict[str, Tensor]:
        images, labels, options = labelled.views["weak"], labelled.labels, self.options
        if options.mix == "none":
            return {"supervised": cross_entropy(self.model(images).logits, labels).mean()}
        ratio = facemix.draw_ratio(options.beta, images.device)
        mixed = self.model(facemix.mix(images, ratio)).logits
        target = facemix.mix(facemix.smoothed(labels, self.classes, options.smoothing), ratio)
        virtual = cross_entropy(mixed, target)
        if options.mix == "mixup":
            return {"mixed": virtual.mean()}
        own = cross_entropy(mixed if options.unmixed == "mixed" else self.model(images).logits, labels)
        of_mixed, of_own = facemix.weights(self._kappa(labelled), options.mix_loss)
        return {"mixed": (of_mixed * virtual).mean(), "unmixed": (of_own * (own + own.flip(0))).mean()}

    @torch.no_grad()
    def _kappa(self, labelled: Labelled) -> Tensor:
        """[B]: 1 - IoU of each image's face and its partner's (Eq. 9), or what stands in its place."""
        images = labelled.views["weak"]
        if self.options.kappa != "iou":
            pixels = images * self.std.view(3, 1, 1) + self.mean.view(3, 1, 1)
            return facemix.distance(pixels.clamp(0, 1), self.options.kappa)
        if labelled.boxes is None:
            return torch.zeros(len(images), device=images.device)
        boxes = labelled.boxes["weak"]
        return 1 - facemix.iou(boxes, boxes.flip(0))

    def _unlabelled(self, unlabelled: Unlabelled) -> tuple[Tensor, PseudoLabels]:
        assert self.teacher is not None
        options = self.options
        target: Prediction = self.teacher(unlabelled.views["weak"])
        pseudo = PseudoLabels(*pseudo_label(target.logits, thresholds=options.threshold))
        if not options.inclusive:
            pseudo = pseudo._replace(keep=pseudo.confidence > options.threshold)
        strong = cross_entropy(self.model(unlabelled.views["strong"]).logits, pseudo.label)
        return options.unlabelled_weight * (strong * pseudo.keep).mean(), pseudo

    def predict(self, images: Tensor) -> Tensor:
        return next(iter(self.predict_all(images).values()))

    def predict_all(self, images: Tensor) -> dict[str, Tensor]:
        """The teacher's scores and the student's; the student's alone where there is no teacher."""
        models: dict[str, nn.Module] = {} if self.teacher is None else {"teacher": self.teacher}
        models["student"] = self.model
        return {name: model(images).logits.float().softmax(dim=1) for name, model in models.items()}

    def not_averaged(self) -> frozenset[str]:
        return untrained(self)


def make_teacher(model: nn.Module, options: SSFEROptions) -> EmaTeacher:
    """Eq. 1's average of `model`."""
    training = options.statistics == "batch"
    return EmaTeacher(model, options.decay, training=training, statistics="averaged", warm_up=options.decay_warmup)
