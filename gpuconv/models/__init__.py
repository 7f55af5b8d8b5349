"""Models: layers that are trained."""

from gpuconv.models.cloning import clone_model
from gpuconv.models.functional import Functional
from gpuconv.models.model import Model
from gpuconv.models.saving import load_model
from gpuconv.models.sequential import Sequential

__all__ = ["Functional", "Model", "Sequential", "clone_model", "load_model"]
