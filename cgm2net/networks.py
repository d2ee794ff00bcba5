"""The network that a configuration names."""

from cgm2net.baselines.dsen2cr import DSen2CR
from cgm2net.baselines.glfcr import GLFCR
from cgm2net.baselines.siamese_mamba import SiameseMamba
from cgm2net.baselines.uncrtaints import UnCRtainTS
from cgm2net.baselines.unet import UNet
from cgm2net.model.interface import Network, NetworkConfig
from cgm2net.model.network import CGM2Net
from cgm2net.settings import Architecture, TrainSettings

ARCHITECTURES: dict[Architecture, type[Network]] = {
    "cgm2net": CGM2Net,
    "unet": UNet,
    "dsen2cr": DSen2CR,
    "uncrtaints": UnCRtainTS,
    "glfcr": GLFCR,
    "siamese_mamba": SiameseMamba,
}


def build(config: NetworkConfig) -> Network:
    """Return a new network with random weights."""
    return ARCHITECTURES[config.architecture](config)


def config_of(settings: TrainSettings, *, bands: tuple[int, int, int]) -> NetworkConfig:
    """Return the configuration that settings ask for.

    Args:
        settings: of the training.
        bands: numbers of optical bands, SAR bands and classes.
    """
    num_optical, num_sar, num_classes = bands
    taken = settings.model_dump(include=set(NetworkConfig.model_fields) & set(TrainSettings.model_fields))
    return NetworkConfig(
        num_optical_bands=num_optical, num_sar_bands=num_sar, num_classes=num_classes, size=settings.network_size,
        **taken,
    )  # fmt: skip
