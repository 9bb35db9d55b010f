"""How good generated samples are: distances between distributions, class accuracy, and a check against copies."""

from rcgm.evaluation.classifier import (
    ImageClassifier,
    TrainedClassifier,
    class_accuracy,
    train_classifier,
    train_digit_classifier,
)
from rcgm.evaluation.components import PrincipalComponents
from rcgm.evaluation.frechet import frechet_distance, gaussian_frechet_distance, moments
from rcgm.evaluation.image_quality import Reference, evaluate_images, inception_score, precision_and_recall
from rcgm.evaluation.images import SIDE, ImageReference
from rcgm.evaluation.inception import FeatureNetwork, load_inception
from rcgm.evaluation.mmd import squared_mmd
from rcgm.evaluation.neighbours import NeighbourReport, TrainingSet, check_neighbours, nearest_distances
from rcgm.evaluation.points import PointReference, evaluate_points
from rcgm.evaluation.reference import read_reference, write_reference
from rcgm.evaluation.report import DigitReference, evaluate_digits
from rcgm.evaluation.spread import spread
from rcgm.evaluation.thumbnails import thumbnails

__all__ = [
    "SIDE",
    "DigitReference",
    "FeatureNetwork",
    "ImageClassifier",
    "ImageReference",
    "NeighbourReport",
    "PointReference",
    "PrincipalComponents",
    "Reference",
    "TrainedClassifier",
    "TrainingSet",
    "check_neighbours",
    "class_accuracy",
    "evaluate_digits",
    "evaluate_images",
    "evaluate_points",
    "frechet_distance",
    "gaussian_frechet_distance",
    "inception_score",
    "load_inception",
    "moments",
    "nearest_distances",
    "precision_and_recall",
    "read_reference",
    "spread",
    "squared_mmd",
    "thumbnails",
    "train_classifier",
    "train_digit_classifier",
    "write_reference",
]
