"""A random split into train, val and test that keeps the shares of kinds of things."""

import hashlib
from collections.abc import Mapping


def split_groups(strata: Mapping[str, str], *, val_share: float, test_share: float, seed: int) -> dict[str, str]:
    """Say the split of every group.

    Groups are ranked by a hash of seed and name, stratum by stratum; the order in which they come has no say.

    Args:
        strata: group -> stratum, in each of which the shares hold, rounded.
        val_share: of the groups of a stratum.
        test_share: the same.
        seed: of the ranking.
    """
    members: dict[str, list[str]] = {}
    for group, stratum in strata.items():
        members.setdefault(stratum, []).append(group)
    splits: dict[str, str] = {}
    for groups in members.values():
        ranked = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).hexdigest())
        num_val, num_test = round(val_share * len(ranked)), round(test_share * len(ranked))
        names = ["val"] * num_val + ["test"] * num_test + ["train"] * (len(ranked) - num_val - num_test)
        splits |= dict(zip(ranked, names, strict=True))
    return splits
