"""The scheduler of few-step pipelines."""

from __future__ import annotations

import torch
from diffusers import FlowMapEulerDiscreteScheduler
from torch import Tensor

__all__ = ["FewStepScheduler"]


class FewStepScheduler(FlowMapEulerDiscreteScheduler):
    """Evenly spaced times, as our samplers have them, for pipelines that shift times by the size of the image, too."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: list[float] | None = None,
        timesteps: list[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """See the stock class; ``mu``, the shift of some pipelines, is not used."""
        super().set_timesteps(num_inference_steps, device, sigmas, timesteps)

    def times_of_step(self) -> tuple[Tensor, Tensor]:
        """Beginning and end of the step that comes next, ``[1]`` each, in [0, 1]."""
        step = self.step_index if self.step_index is not None else self.begin_index or 0
        return self.sigmas[step : step + 1], self.sigmas[step + 1 : step + 2]
