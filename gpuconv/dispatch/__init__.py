"""Who computes an operation, and why.

::

    select_engine(op, geometry, array)
        -> every engine of the device is asked for a Plan or a Refusal
        -> the plan that was measured to be the fastest (config.autotune), or is predicted to be
        -> Decision(engine, algorithm, workspace_bytes, reason), cached

``select`` is the same for shapes alone and never measures; ``gpuconv.explain`` prints it.
"""

from gpuconv.dispatch.decision import Candidate, Decision
from gpuconv.dispatch.selecting import (
    engine_for,
    forced_engine,
    select,
    select_engine,
    select_with_limit,
    target_device,
    watching,
)
from gpuconv.dispatch.tuning import without_tuning
from gpuconv.dispatch.workspace import workspace_limit

__all__ = [
    "Candidate",
    "Decision",
    "engine_for",
    "forced_engine",
    "select",
    "select_engine",
    "select_with_limit",
    "target_device",
    "watching",
    "without_tuning",
    "workspace_limit",
]
