"""What methods around one model share that no plug-in wraps."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ferbench.methods.base import Method, Model, Prediction


class Single(Method):
    """Base of methods that train one model and test it; not a method itself."""

    model: nn.Module
    options: Any

    def __init__(self, model: Model, options: Any) -> None:
        super().__init__()
        assert isinstance(model, nn.Module)
        self.model = model
        self.options = options

    def predict(self, images: Tensor) -> Tensor:
        prediction: Prediction = self.model(images)
        return prediction.logits.float().softmax(dim=1)

    def not_averaged(self) -> frozenset[str]:
        return untrained(self)


def untrained(method: nn.Module) -> frozenset[str]:
    """State entries beside the model that no gradient moves: statistics, tables, banks, teachers.

    An average of them means nothing, so the evaluated copy takes them over as they are.
    """
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    return frozenset(name for name in method.state_dict() if not name.startswith("model.")) - trained
