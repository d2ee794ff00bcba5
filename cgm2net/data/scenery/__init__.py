"""Drawing of synthetic scenes: ground, seasons, sensors, clouds. :mod:`cgm2net.data.synthetic` names and files them."""
