"""Selective state-space scan (Mamba's S6), in one dimension and over a map in four directions.

The recurrence is that of Gu & Dao, *Mamba* (10.48550/arXiv.2312.00752); the four walks over a map are those of VMamba
(10.48550/arXiv.2401.10166). One mathematics, several implementations: see :data:`~cgm2net.model.scan.backends.Backend`.
"""

from cgm2net.model.scan.backends import Backend
from cgm2net.model.scan.map import DIRECTIONS, Direction, scan_2d
from cgm2net.model.scan.sequence import selective_scan

__all__ = ["DIRECTIONS", "Backend", "Direction", "scan_2d", "selective_scan"]
