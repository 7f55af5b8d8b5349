"""Callbacks: code that runs at given moments of ``fit``, ``evaluate`` and ``predict``."""

from gpuconv.callbacks.backup import BackupAndRestore
from gpuconv.callbacks.base import Callback
from gpuconv.callbacks.checkpoint import ModelCheckpoint
from gpuconv.callbacks.csv_logger import CSVLogger
from gpuconv.callbacks.early_stopping import EarlyStopping
from gpuconv.callbacks.function import LambdaCallback
from gpuconv.callbacks.history import History
from gpuconv.callbacks.interruption import StopOnInterrupt
from gpuconv.callbacks.monitor import MonitorCallback
from gpuconv.callbacks.progress import ProgressLines, progress_callback
from gpuconv.callbacks.progress_bar import ProgressBar
from gpuconv.callbacks.reduce_lr import ReduceLROnPlateau
from gpuconv.callbacks.schedule import LearningRateScheduler
from gpuconv.callbacks.terminate import TerminateOnNaN

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "MonitorCallback",
    "ProgressBar",
    "ProgressLines",
    "ReduceLROnPlateau",
    "StopOnInterrupt",
    "TerminateOnNaN",
    "progress_callback",
]
