"""Small helpers that Keras programs use, under their names in ``keras.utils``."""

from gpuconv.random import set_seed as set_random_seed
from gpuconv.utils.image_sets import image_dataset_from_directory
from gpuconv.utils.images import array_to_img, img_to_array, load_img, save_img
from gpuconv.utils.labels import normalize, to_categorical
from gpuconv.utils.pictures import plot_model
from gpuconv.utils.sequences import PyDataset

Sequence = PyDataset
"""Keras 2's name of the same class."""

__all__ = [
    "PyDataset",
    "Sequence",
    "array_to_img",
    "image_dataset_from_directory",
    "img_to_array",
    "load_img",
    "normalize",
    "plot_model",
    "save_img",
    "set_random_seed",
    "to_categorical",
]
