"""A running mean of the weights (not in the paper): smoother than the last step's, and often a little better."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class RunningMean(AveragedModel):
    """Exponential mean of a module's parameters, whose decay ramps up: min(decay, (1 + n) / (10 + n)) at update n.

    Without the ramp the weights of the start, which are random, keep a share of decayⁿ: with 0.998 three quarters
    after 150 steps. The first update takes the weights as they are. TensorFlow's ExponentialMovingAverage ramps alike.
    """

    def __init__(self, learned: nn.Module, decay: float):
        super().__init__(learned, multi_avg_fn=self._mix)
        self.decay = decay

    def _mix(self, means: Sequence[Tensor], values: Sequence[Tensor], _updates: Tensor | int) -> None:
        updates = int(self.n_averaged)  # lies on the host: a GPU need not be waited for
        decay = min(self.decay, (1 + updates) / (10 + updates))
        for mean, value in zip(means, values, strict=True):
            mean.lerp_(value, 1 - decay)
