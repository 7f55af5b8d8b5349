"""A training run as one HTML page: :func:`write_report`."""

from gpuconv.report.writing import write_report

__all__ = ["write_report"]
