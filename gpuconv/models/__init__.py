"""Models: layers that are trained."""

from gpuconv.models.model import Model
from gpuconv.models.saving import load_model
from gpuconv.models.sequential import Sequential

__all__ = ["Model", "Sequential", "load_model"]
