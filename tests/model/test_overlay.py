"""What is known locally, over the card: kept, reloaded, never mixed with figures that do not compare."""

from pathlib import Path

import pytest

from edgeagent.core.cards import ModelCard, PrunedSource, Quality, Variant
from edgeagent.core.errors import ConfigError, ModelNotFoundError
from edgeagent.model import files, overlay
from edgeagent.model.cascade import Calibration, Figures
from edgeagent.model.confidence import Logistic
from edgeagent.model.overlay import WIKITEXT, WIKITEXT_SHA256, Measurement, Overlay
from edgeagent.model.registry import Registry

STANDARD = f"{WIKITEXT}, 12 x 512 tokens"
LOCAL = Variant(
    name="F32-d1", file="tiny.F32-d1.gguf", layers=1, source=PrunedSource(kind="pruned", variant="F32", dropped=(1,))
)


def measured(variant: str, perplexity: float, *, sha256: str = "a" * 64, text: str = WIKITEXT_SHA256) -> Measurement:
    return Measurement(
        variant=variant,
        sha256=sha256,
        bytes=100,
        perplexity=perplexity,
        perplexity_error=1.0,
        reference="F32",
        mean_kl=0.1,
        top1=0.9,
        text="own.txt",
        text_sha256=text,
        chunks=12,
        context_tokens=512,
        positions=3060,
        peak_rss_bytes=1,
        prefill_tok_s=1,
        decode_tok_s=1,
        threads=1,
        kv_type="q8_0",
        served_tokens=2048,
        engine="llama-cpp-python 0.3.36",
        date="2026-11-24",
    )


def with_quality(card: ModelCard, source: str) -> ModelCard:
    quality = Quality(perplexity=20, source=source)
    return card.model_copy(update={"variants": tuple(v.model_copy(update={"quality": quality}) for v in card.variants)})


def perplexities(card: ModelCard) -> dict[str, float | None]:
    return {v.name: v.quality.perplexity if v.quality else None for v in card.variants}


def store_file(folder: Path, card: ModelCard, variant: Variant, content: bytes = b"x") -> None:
    path = folder / card.id / variant.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_overlay_survives_a_reload(tmp_path: Path, tiny_card: ModelCard) -> None:
    store_file(tmp_path, tiny_card, LOCAL)
    kept = Overlay().with_variant(LOCAL).with_measurement(measured("F32-d1", 31.5))
    overlay.save(tmp_path, tiny_card.id, kept)
    assert overlay.load(tmp_path, tiny_card.id) == kept
    registry = overlay.lay_over(Registry([tiny_card]), tmp_path)
    _, shown = registry.variant(tiny_card.id, "F32-d1")
    assert shown.layers == 1
    assert shown.quality is not None
    assert shown.quality.perplexity == 31.5
    assert shown.quality.source.startswith(f"measured here: {STANDARD}; against F32;")
    assert registry.shipped(tiny_card.id) == tiny_card


def test_newer_measurement_replaces_the_older() -> None:
    kept = Overlay().with_measurement(measured("F32", 20)).with_measurement(measured("F32", 21))
    assert [m.perplexity for m in kept.measurements] == [21]


def test_local_variant_whose_file_is_gone_is_not_shown(tmp_path: Path, tiny_card: ModelCard) -> None:
    (tmp_path / tiny_card.id).mkdir()
    overlay.save(tmp_path, tiny_card.id, Overlay().with_variant(LOCAL))
    registry = overlay.lay_over(Registry([tiny_card]), tmp_path)
    with pytest.raises(ModelNotFoundError):
        registry.variant(tiny_card.id, "F32-d1")


def test_figures_of_another_content_are_not_shown(tmp_path: Path, tiny_card: ModelCard) -> None:
    variant = tiny_card.variants[1]
    store_file(tmp_path, tiny_card, variant)
    record = files.Checked(sha256="b" * 64, bytes=1, mtime_ns=1)
    files.record(tmp_path / tiny_card.id / variant.file, record)
    stale = Overlay(measurements=(measured("Q8_0", 30, sha256="a" * 64),))
    assert perplexities(overlay.present(tiny_card, stale, tmp_path))["Q8_0"] is None
    fresh = Overlay(measurements=(measured("Q8_0", 30, sha256="b" * 64),))
    assert perplexities(overlay.present(tiny_card, fresh, tmp_path))["Q8_0"] == 30


def test_measurement_with_the_cards_yardstick_stands_beside_its_figures(tiny_card: ModelCard) -> None:
    card = with_quality(tiny_card, f"measured: {STANDARD} (docs)")
    shown = overlay.combine(card, [], [measured("Q8_0", 25)])
    assert perplexities(shown) == {"F32": 20, "Q8_0": 25}
    assert overlay.missing(card, measured("Q8_0", 25), ["Q8_0"]) == []


def test_measurement_on_another_text_waits_until_it_covers_the_card(tiny_card: ModelCard) -> None:
    card = with_quality(tiny_card, f"measured: {STANDARD} (docs)")
    other = {name: measured(name, value, text="c" * 64) for name, value in {"F32": 7.0, "Q8_0": 8.0}.items()}
    assert perplexities(overlay.combine(card, [], [other["Q8_0"]])) == {"F32": 20, "Q8_0": 20}
    assert overlay.missing(card, other["Q8_0"], ["Q8_0"]) == ["F32"]
    assert perplexities(overlay.combine(card, [], other.values())) == {"F32": 7, "Q8_0": 8}


def test_local_variant_cannot_take_the_name_of_a_shipped_one(tiny_card: ModelCard) -> None:
    impostor = LOCAL.model_copy(update={"name": "F32"})
    assert overlay.combine(tiny_card, [impostor], []) == tiny_card


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("{", "the whole"),
        ('{"variants": [{"name": "x"}]}', r"variants\.0\.file"),
        ('{"measurements": [{"variant": "F32", "perplexity": "low"}]}', r"measurements\.0\."),
        ('{"colour": 1}', "colour"),
    ],
)
def test_malformed_overlay_is_one_error_that_names_file_and_key(
    tmp_path: Path, tiny_card: ModelCard, content: str, key: str
) -> None:
    path = overlay.path_of(tmp_path, tiny_card.id)
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigError, match=rf"overlay {path}: {key}.*; correct it or remove the file"):
        overlay.lay_over(Registry([tiny_card]), tmp_path)


def test_unknown_model_cannot_be_amended(tiny_card: ModelCard) -> None:
    with pytest.raises(ModelNotFoundError):
        Registry([tiny_card]).amend(tiny_card.model_copy(update={"id": "other"}))


def calibrated(larger: str, *, date: str = "2026-11-24", sha256: str = "a" * 64) -> Calibration:
    return Calibration(
        variant="F32",
        sha256=sha256,
        larger=larger,
        confidence=Logistic(means=(0.0,), scales=(1.0,), weights=(0.5,), bias=0.1),
        threshold=0.5,
        target="",
        figures=Figures(
            questions=50, accuracy=0.5, auroc=0.7, calibration_error=0.1, share_asked=0.4, small_s=0.2, larger_s=None
        ),
        file="own.jsonl",
        file_sha256="b" * 64,
        max_tokens=48,
        engine="llama-cpp-python 0.3.36",
        date=date,
    )


def test_calibration_survives_a_reload_and_is_found_by_file_and_larger_model(
    tmp_path: Path, tiny_card: ModelCard
) -> None:
    (tmp_path / tiny_card.id).mkdir()
    alone, against = calibrated(""), calibrated("big")
    kept = Overlay().with_calibration(calibrated("big", date="2026-01-01")).with_calibration(alone)
    overlay.save(tmp_path, tiny_card.id, kept.with_calibration(against))

    found = overlay.load(tmp_path, tiny_card.id)

    assert found.calibrations == (alone, against)  # the newer one took the older one's place
    assert found.calibration("F32", "a" * 64, "big") == against
    assert found.calibration("F32", "a" * 64, "other") == alone
    assert found.calibration("F32", "c" * 64, "big") is None
    assert found.calibration("F16", "a" * 64, "big") is None


def test_calibration_that_is_not_finite_is_an_error_that_names_the_file(tmp_path: Path, tiny_card: ModelCard) -> None:
    (tmp_path / tiny_card.id).mkdir()
    overlay.save(tmp_path, tiny_card.id, Overlay().with_calibration(calibrated("")))
    path = overlay.path_of(tmp_path, tiny_card.id)
    path.write_text(path.read_text(encoding="utf-8").replace('"bias": 0.1', '"bias": NaN'), encoding="utf-8")
    with pytest.raises(ConfigError, match=str(path)):
        overlay.load(tmp_path, tiny_card.id)
