"""Pieces done on a Ray cluster (an optional extra): Ray places them, and runs those of a dead node again.

The run's folder, the photos and the checkpoint must lie at the same paths on every node.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import PersresError, first_line
from .piece import Piece
from .workers import Report, tried

LOCAL = "local"
RETRIES = 10


def run_ray(pieces: Iterable[Piece], address: str, report: Report, workers: int | None = None) -> None:
    """address: of a running cluster, "auto", or "local" for a Ray of this machine alone (with `workers` cores).

    A piece takes one core, or one GPU where the cluster has some.
    """
    try:
        import ray
    except ImportError:
        raise PersresError('Ray is not installed: run pip install "lib-persres[ray]".') from None
    started = not ray.is_initialized()
    if started:
        try:
            if address == LOCAL:
                ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
            else:
                ray.init(address=address, log_to_driver=False)
        except Exception as error:  # Ray's own have no common family
            raise PersresError(f"The Ray cluster {address!r} cannot be reached: {first_line(error)}.") from error
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(tried)
        names = {task.remote(piece): piece.name for piece in pieces}
        waiting = list(names)
        while waiting:
            (finished,), waiting = ray.wait(waiting, num_returns=1)
            try:
                problem = ray.get(finished)
            except ray.exceptions.RayError as error:
                problem = f"Ray gave it up: {first_line(error)}"
            report(names[finished], problem)
    finally:
        if started:
            ray.shutdown()
