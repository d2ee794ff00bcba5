"""The exceptions that this library raises on purpose.

::

    CGM2NetError
    ├── SettingsError (ValueError)      params.yaml: unknown key, value out of range
    ├── CatalogError (ValueError)       catalogue or scene table: missing column, unsafe or repeated id
    ├── FetchError (OSError)            a URI could not be made a local file
    │   └── ChecksumError               it arrived, but is not the file that the catalogue names
    ├── RasterError (ValueError)        a raster file or value is not what was expected
    │   └── GridError                   two rasters that should share a grid do not
    ├── SceneError (ValueError)         one scene cannot be used; carries scene id and reason
    ├── DataError (ValueError)          a whole set cannot be used: too few scenes, an empty split
    ├── ModelError (ValueError)         weights, card, or input shape do not fit the network
    ├── BackendError (RuntimeError)     an optional package or device is needed and absent
    ├── WorkerError (RuntimeError)      a process that worked on a scene died
    └── MetricError (ArithmeticError)   a loss or metric is not a finite number
"""


class CGM2NetError(Exception):
    """Anything that this library refuses; the message says what, where, got, wanted, what to do."""


class SettingsError(CGM2NetError, ValueError):
    """A value of ``params.yaml`` cannot be used."""


class CatalogError(CGM2NetError, ValueError):
    """A catalogue or scene table cannot be used."""


class FetchError(CGM2NetError, OSError):
    """A URI could not be made a checked local file."""


class ChecksumError(FetchError):
    """A file arrived whole but is not the one that the catalogue names."""


class RasterError(CGM2NetError, ValueError):
    """A raster is not what was expected."""


class GridError(RasterError):
    """Two rasters do not share one grid."""


class SceneError(CGM2NetError, ValueError):
    """One scene cannot be used.

    Attributes:
        scene_id: the scene.
        reason: why, for the ``reason`` column of the scene table.
    """

    def __init__(self, scene_id: str, reason: str) -> None:
        super().__init__(scene_id, reason)
        self.scene_id = scene_id
        self.reason = reason

    def __str__(self) -> str:
        return f"scene {self.scene_id}: {self.reason}"


class DataError(CGM2NetError, ValueError):
    """A whole set of scenes or tiles cannot be used."""


class ModelError(CGM2NetError, ValueError):
    """Weights, their card or an input do not fit the network."""


class BackendError(CGM2NetError, RuntimeError):
    """An optional package or a device is needed and absent."""


class WorkerError(CGM2NetError, RuntimeError):
    """A process that worked on a scene died."""


class MetricError(CGM2NetError, ArithmeticError):
    """A loss or a metric is not a finite number."""
