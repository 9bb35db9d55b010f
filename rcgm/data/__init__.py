"""Data sets, and the endless stream of batches that training reads from them."""

from rcgm.data.arrays import Arrays
from rcgm.data.digits import Digits
from rcgm.data.examples import examples, of_one_shape, samples_at
from rcgm.data.fingerprint import data_fingerprint, fingerprint_differences
from rcgm.data.image_folder import ImageFolder
from rcgm.data.in_memory import InMemoryDataset
from rcgm.data.info import DataInfo, TextInfo
from rcgm.data.latents import Latents
from rcgm.data.normalisation import Normalisation
from rcgm.data.points import SCurve, SwissRoll, TwoMoons
from rcgm.data.protocols import Augmented, BatchReader, Bucketed, Captioned, Fingerprinted
from rcgm.data.registry import DATASETS, build_dataset
from rcgm.data.stream import BatchStream
from rcgm.data.summary import describe_data
from rcgm.data.text import EncodedPairs

__all__ = [
    "DATASETS",
    "Arrays",
    "Augmented",
    "BatchReader",
    "BatchStream",
    "Bucketed",
    "Captioned",
    "DataInfo",
    "Digits",
    "EncodedPairs",
    "Fingerprinted",
    "ImageFolder",
    "InMemoryDataset",
    "Latents",
    "Normalisation",
    "SCurve",
    "SwissRoll",
    "TextInfo",
    "TwoMoons",
    "build_dataset",
    "data_fingerprint",
    "describe_data",
    "examples",
    "fingerprint_differences",
    "of_one_shape",
    "samples_at",
]
