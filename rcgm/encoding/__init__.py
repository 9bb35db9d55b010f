"""From a folder of images to shards of latents."""

from rcgm.encoding.plan import Plan
from rcgm.encoding.run import encode_shards, write_manifest
from rcgm.encoding.statistics import ChannelStatistics

__all__ = ["ChannelStatistics", "Plan", "encode_shards", "write_manifest"]
