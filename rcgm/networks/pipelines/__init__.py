"""Text encoders and autoencoders of published pipelines: from prompts and images to what a network takes, and back.

One file a family. Diffusers and transformers are imported when a pipeline is loaded.
"""

from rcgm.networks.pipelines.families import PIPELINES
from rcgm.networks.pipelines.family import PipelineFamily
from rcgm.networks.pipelines.text_pipeline import TextPipeline

__all__ = ["PIPELINES", "PipelineFamily", "TextPipeline"]
