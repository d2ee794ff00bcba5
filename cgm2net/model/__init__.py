"""The network and the operator under it; knows nothing of files, bands or trainers, but for its own weights."""
