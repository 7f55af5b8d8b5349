"""Optimizers under PyTorch 2.13's signatures, defaults and update rules; see ``torch_forms``."""

from gpuconv.optimizers.torch_forms import SGD, Adagrad, Adam, AdamW, RMSprop

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"]
