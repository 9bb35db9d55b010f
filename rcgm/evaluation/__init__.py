"""How good generated samples are: distances between distributions, class accuracy, and a check against copies."""

from rcgm.evaluation.classifier import DigitClassifier, TrainedClassifier, class_accuracy, train_digit_classifier
from rcgm.evaluation.frechet import frechet_distance, gaussian_frechet_distance, moments
from rcgm.evaluation.mmd import squared_mmd
from rcgm.evaluation.neighbours import NeighbourReport, check_neighbours, nearest_distances
from rcgm.evaluation.report import evaluate_digits, evaluate_points

__all__ = [
    "DigitClassifier",
    "NeighbourReport",
    "TrainedClassifier",
    "check_neighbours",
    "class_accuracy",
    "evaluate_digits",
    "evaluate_points",
    "frechet_distance",
    "gaussian_frechet_distance",
    "moments",
    "nearest_distances",
    "squared_mmd",
    "train_digit_classifier",
]
