"""Cloud removal and land-cover mapping from cloudy optical and SAR images, in one network."""
