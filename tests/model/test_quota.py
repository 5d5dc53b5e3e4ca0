"""Eviction: what may go, in which order, and never more than that."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.model.quota import Tenant, choose_evictions

KEEP = frozenset({"a"})
tenants = st.lists(
    st.builds(
        Tenant,
        model=st.sampled_from("abc"),
        variant=st.sampled_from(["Q8_0", "Q4_0", "Q2_K"]),
        bytes=st.integers(1, 100),
        used_at=st.floats(0, 10),
        in_use=st.booleans(),
    ),
    unique_by=lambda t: (t.model, t.variant),
)


def tenant(name: str, used_at: float, size: int = 10, *, in_use: bool = False) -> Tenant:
    model, variant = name.split("/")
    return Tenant(model, variant, size, used_at, in_use)


def test_longest_unused_goes_first_and_no_more_than_needed() -> None:
    young, old, oldest = tenant("b/x", 3), tenant("b/y", 2), tenant("c/x", 1)
    assert choose_evictions([young, old, oldest], 15, KEEP) == [oldest, old]
    assert choose_evictions([young, old, oldest], 0, KEEP) == []


def test_used_variant_stays_however_old() -> None:
    assert choose_evictions([tenant("b/x", 0, in_use=True), tenant("b/y", 9)], 5, KEEP) == [tenant("b/y", 9)]


def test_last_variant_of_a_kept_model_stays() -> None:
    assert choose_evictions([tenant("a/x", 0)], 5, KEEP) is None
    assert choose_evictions([tenant("a/x", 0), tenant("a/y", 1)], 5, KEEP) == [tenant("a/x", 0)]
    assert choose_evictions([tenant("a/x", 0), tenant("a/y", 1)], 15, KEEP) is None


@given(tenants, st.integers(0, 400))
def test_evictions_free_enough_and_spare_what_must_stay(known: list[Tenant], excess: int) -> None:
    chosen = choose_evictions(known, excess, KEEP)
    if chosen is None:
        kept = [t for t in known if t.model in KEEP]
        may_go = [t for t in known if not t.in_use and t.model not in KEEP]
        assert sum(t.bytes for t in may_go) < excess
        assert kept or sum(t.bytes for t in may_go) == sum(t.bytes for t in known if not t.in_use)
        return
    assert sum(t.bytes for t in chosen) >= excess
    assert sum(t.bytes for t in chosen[:-1]) < max(excess, 1)
    assert not any(t.in_use for t in chosen)
    here, gone = Counter(t.model for t in known), Counter(t.model for t in chosen)
    assert not here["a"] or gone["a"] < here["a"]
    assert [t.used_at for t in chosen] == sorted(t.used_at for t in chosen)
