"""Random changes of images in training, under Keras's names; the identity in inference."""

from gpuconv.layers.augmentation.affine import RandomRotation, RandomTranslation, RandomZoom
from gpuconv.layers.augmentation.base import Augmentation
from gpuconv.layers.augmentation.brightness import RandomBrightness
from gpuconv.layers.augmentation.contrast import RandomContrast
from gpuconv.layers.augmentation.crop import RandomCrop
from gpuconv.layers.augmentation.cutout import Cutout
from gpuconv.layers.augmentation.flip import RandomFlip

__all__ = [
    "Augmentation",
    "Cutout",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomFlip",
    "RandomRotation",
    "RandomTranslation",
    "RandomZoom",
]
