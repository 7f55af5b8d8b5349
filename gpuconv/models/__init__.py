"""Models: layers that are trained."""

from gpuconv.models.functional import Functional
from gpuconv.models.model import Model
from gpuconv.models.saving import load_model
from gpuconv.models.sequential import Sequential

__all__ = ["Functional", "Model", "Sequential", "load_model"]
