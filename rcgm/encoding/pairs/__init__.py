"""From images with captions to shards of latents and text states."""

from rcgm.encoding.pairs.encoder import PairEncoder, load_condition_encoder, load_encoder
from rcgm.encoding.pairs.plan import PairPlan
from rcgm.encoding.pairs.run import encode_pairs, write_pair_manifest
from rcgm.encoding.pairs.survey import survey

__all__ = [
    "PairEncoder",
    "PairPlan",
    "encode_pairs",
    "load_condition_encoder",
    "load_encoder",
    "survey",
    "write_pair_manifest",
]
