"""Pictures from files, folders, and a program that stands where a camera's would."""

import asyncio
import time
from pathlib import Path

import pytest

from edgeagent.core.errors import RequestError
from edgeagent.execution import camera
from edgeagent.execution.camera import Picture, camera_command, captured_picture, file_pictures


def pictures(path: Path) -> list[Picture]:
    async def run() -> list[Picture]:
        return [picture async for picture in file_pictures(path)]

    return asyncio.run(run())


def test_folder_gives_its_images_by_name(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    assert pictures(tmp_path) == [Picture(str(tmp_path / n), n.encode()) for n in ("a.png", "b.JPG")]
    assert pictures(tmp_path / "a.png") == [Picture(str(tmp_path / "a.png"), b"a.png")]


def test_folder_without_images_missing_and_huge_files_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="there is no image in"):
        pictures(tmp_path)
    with pytest.raises(RequestError, match="cannot read"):
        pictures(tmp_path / "none.png")
    monkeypatch.setattr(camera, "MAX_IMAGE_BYTES", 10)
    (tmp_path / "big.png").write_bytes(bytes(11))
    with pytest.raises(RequestError, match="is over 10 bytes"):
        pictures(tmp_path / "big.png")


def test_camera_program_gives_a_picture() -> None:
    found = asyncio.run(captured_picture("v4l2:/dev/video9", ["printf", "jpeg"]))
    assert found == Picture("v4l2:/dev/video9", b"jpeg")
    assert camera_command("/dev/video9")[:3] == ["v4l2-ctl", "--device", "/dev/video9"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["no-such-camera"], "cannot start no-such-camera"),
        (["sh", "-c", "echo Cannot open device >&2; exit 1"], r"status 1 \(Cannot open device\); check the camera"),
        (["true"], "status 0"),
    ],
)
def test_camera_program_that_gives_none_is_an_error(command: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        asyncio.run(captured_picture("v4l2:x", command))


def test_camera_program_that_hangs_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(RequestError, match=r"no picture of v4l2:x in 0.2 s"):
        asyncio.run(captured_picture("v4l2:x", ["sleep", "600"], timeout_s=0.2))
    assert time.monotonic() - started < 300  # it was not waited for
