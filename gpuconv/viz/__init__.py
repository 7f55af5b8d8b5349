"""Pictures of training runs, drawn with Pillow."""

from gpuconv.viz.history import draw_history
from gpuconv.viz.images import draw_images

__all__ = ["draw_history", "draw_images"]
