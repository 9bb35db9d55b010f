"""AnyFlow (NVIDIA 2026): Wan with an embedding of ``r``."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from rcgm.networks.base import PublishedNetwork

if TYPE_CHECKING:
    from rcgm.networks.times import TimeInput

__all__ = ["AnyFlow"]


class AnyFlow(PublishedNetwork):
    """AnyFlow: latents of videos ``[B, 16, T, H/8, W/8]``, even height and width; ``text``, padded by zeros.

    Its embedding of ``r``, or of ``t - r`` as its configuration says, is used as it is.
    """

    STOCK: ClassVar[str] = "AnyFlowTransformer3DModel"
    block_names: ClassVar[tuple[str, ...]] = ("blocks",)
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")

    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        time = (t * self.time_scale).unsqueeze(1).expand(-1, x.shape[2])
        output = self.transformer(
            hidden_states=x.transpose(1, 2),
            timestep=time,
            r_timestep=time,
            encoder_hidden_states=cond["text"],
            return_dict=False,
        )[0]
        return output.transpose(1, 2)

    def find_interval(self) -> TimeInput | None:
        from rcgm.networks.times import time_input  # needs diffusers

        place = self.transformer.condition_embedder
        return time_input(place.timesteps_proj, place.delta_embedder)

    def scaled_interval(self, t: Tensor, r: Tensor) -> Tensor:
        return (r if self.transformer.config.deltatime_type == "r" else t - r) * self.time_scale
