"""The quantiser against inputs it must refuse; the real conversion is tested through the worker."""

from pathlib import Path

import pytest

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.quantize import quantize


def test_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="'Q9' is no quantisation"):
        quantize(str(tmp_path / "a"), str(tmp_path / "b"), "Q9", 1)


def test_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="could not quantise"):
        quantize(str(tmp_path / "a"), str(tmp_path / "b"), "Q4_0", 1)
    assert not (tmp_path / "b").exists()
