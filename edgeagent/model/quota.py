"""Which variants make room when the model folder has a quota: a pure decision."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `limit_bytes` (0: no limit) in the folder; of the models in `keep` one variant always stays."""

    limit_bytes: int = 0
    keep: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tenant:
    """A variant in the folder: what its removal would free, when it was last used, and whether it is in use now."""

    model: str
    variant: str
    bytes: int
    used_at: float
    in_use: bool


def choose_evictions(tenants: Iterable[Tenant], excess_bytes: int, keep: Collection[str]) -> list[Tenant] | None:
    """The longest unused ones whose removal frees `excess_bytes`; None when all that may go would not do.

    One that is in use never goes, nor the last variant of a model in `keep`.
    """
    by_age = sorted(tenants, key=lambda tenant: (tenant.used_at, tenant.model, tenant.variant))
    left = Counter(tenant.model for tenant in by_age)
    chosen: list[Tenant] = []
    for tenant in by_age:
        if excess_bytes <= 0:
            break
        if tenant.in_use or (tenant.model in keep and left[tenant.model] == 1):
            continue
        chosen.append(tenant)
        left[tenant.model] -= 1
        excess_bytes -= tenant.bytes
    return chosen if excess_bytes <= 0 else None
