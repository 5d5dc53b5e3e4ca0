"""Ten thousand damaged and hostile GGUF headers: each must be read or refused, quickly and in little memory.

    tools/gguf_fuzz.py [--json] [--cases N] [--seed S] [--file MODEL.gguf]

With `--file`, a part of the cases are made from that file's own header, as if the rest of it were zeros. The times are
CPU time of this process, of a slow case the best of three. Exit status 1: a case raised something else than
ModelFileError, or took too long.
"""

import argparse
import contextlib
import functools
import io
import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from edgeagent.core.errors import ModelFileError
from edgeagent.model import gguf_cursor, gguf_header
from edgeagent.model.gguf_header import read_header

LIMIT_S = 0.1
REAL_SHARE = 50
"""One case in so many is made from the real header, which is a thousand times as long."""
UINT8, UINT32, BOOL, STRING, ARRAY, UINT64 = 0, 4, 7, 8, 9, 10
BOMBS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**48, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1)


class Sample:
    """A GGUF file in the making, which remembers where its counts and lengths stand."""

    def __init__(self, num_tensors: int, num_keys: int) -> None:
        self.content = bytearray(b"GGUF" + struct.pack("<I", 3))
        self.lengths: list[int] = []
        self.length(num_tensors)
        self.length(num_keys)

    def length(self, value: int) -> None:
        self.lengths.append(len(self.content))
        self.content += struct.pack("<Q", value)

    def text(self, value: str) -> None:
        self.length(len(value.encode()))
        self.content += value.encode()

    def uint32(self, *values: int) -> None:
        self.content += struct.pack(f"<{len(values)}I", *values)

    def number(self, key: str, value: int) -> None:
        self.text(key)
        self.uint32(UINT32, value)

    def string(self, key: str, value: str) -> None:
        self.text(key)
        self.uint32(STRING)
        self.text(value)

    def array(self, key: str, item_type: int, count: int, items: bytes) -> None:
        self.text(key)
        self.uint32(ARRAY, item_type)
        self.length(count)
        self.content += items

    def tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> None:
        self.text(name)
        self.uint32(len(shape))
        for size in shape:
            self.length(size)
        self.uint32(kind)
        self.length(offset)


def sound() -> Sample:
    """A small sound file with every kind of value, 300 tokens and 12 tensors."""
    sample = Sample(num_tensors=12, num_keys=14)
    sample.string("general.architecture", "llama")
    counts = {"block_count": 2, "context_length": 64, "embedding_length": 32, "feed_forward_length": 64}
    counts |= {"attention.head_count": 2, "attention.head_count_kv": 1, "attention.sliding_window": 16}
    for key, value in counts.items():
        sample.number(f"llama.{key}", value)
    sample.number("general.file_type", 0)
    sample.string("tokenizer.chat_template", "{% for m in messages %}{{ m }} é{% endfor %}" * 8)
    tokens = b"".join(struct.pack("<Q", len(w)) + w for w in (b"t%d" % number for number in range(300)))
    sample.array("tokenizer.ggml.tokens", STRING, 300, tokens)
    sample.array("tokenizer.ggml.token_type", UINT32, 300, struct.pack("<300I", *range(300)))
    sample.array("flags", BOOL, 5, b"\x00\x01\x00\x01\x01")
    sample.text("tokenizer.ggml.add_bos_token")
    sample.content += struct.pack("<IB", BOOL, 1)
    for number in range(12):
        sample.tensor(f"blk.{number}.weight", (32, 4), 0, 512 * number)
    sample.content += bytes(-len(sample.content) % 32 + 12 * 512)
    return sample


def extremes() -> Iterator[bytes]:
    """The most of everything that the reader allows, and the smallest bomb."""
    yield start(0, 1) + key("a") + struct.pack("<IIQ", ARRAY, UINT32, 2**63)
    yield start(1, 1) + key("a") + struct.pack("<IIQ", ARRAY, UINT32, 2**63)
    yield start(1, 1) + key("a") + struct.pack("<IIQ", ARRAY, STRING, 2**63) + bytes(1 << 20)
    for over in (0, 1):
        count = gguf_cursor.MAX_STRINGS + over
        yield start(1, 1) + key("a") + struct.pack("<IIQ", ARRAY, STRING, count) + bytes(8 * count)
    yield many_keys(lambda _: struct.pack("<IB", BOOL, 1))
    numbers = struct.pack("<IIQ", ARRAY, UINT8, 4096) + bytes(4096)
    yield many_keys(lambda _: numbers)
    text = "é\N{GRINNING FACE}".encode() * 2**17
    yield many_keys(lambda _: struct.pack("<IQ", STRING, len(text)) + text, 64)
    tensors = [key(f"t{n}") + struct.pack("<IQIQ", 1, 1, 0, 32 * n) for n in range(gguf_header.MAX_TENSORS)]
    yield start(len(tensors), 0) + b"".join(tensors) + bytes(32 * len(tensors) + 64)


def start(num_tensors: int, num_keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_keys)


def key(name: str) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode()


def many_keys(value: Callable[[int], bytes], count: int = gguf_header.MAX_KEYS) -> bytes:
    return start(1, count) + b"".join(key(f"k{number}") + value(number) for number in range(count))


def mutate(content: bytes, lengths: list[int], draw: random.Random) -> bytes:
    """`content` with one to three injuries."""
    damaged = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        draw.choice((_flip, _flip, _bomb, _bomb, _cut, _overwrite, _move))(damaged, lengths, draw)
    return bytes(damaged)


def _flip(content: bytearray, _lengths: list[int], draw: random.Random) -> None:
    for _ in range(draw.randint(1, 8)):
        if content:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def _bomb(content: bytearray, lengths: list[int], draw: random.Random) -> None:
    at = draw.choice(lengths)
    if at + 8 <= len(content):
        old = struct.unpack_from("<Q", content, at)[0]
        new = draw.choice((*BOMBS, old + 1, max(0, old - 1), old * 2, len(content), draw.getrandbits(64)))
        content[at : at + 8] = struct.pack("<Q", new % 2**64)


def _cut(content: bytearray, _lengths: list[int], draw: random.Random) -> None:
    del content[draw.randint(0, len(content)) :]


def _overwrite(content: bytearray, _lengths: list[int], draw: random.Random) -> None:
    at, size = draw.randint(0, len(content)), draw.randint(1, 32)
    content[at : at + size] = draw.randbytes(size)


def _move(content: bytearray, _lengths: list[int], draw: random.Random) -> None:
    """Take a piece out, and perhaps put it in elsewhere: everything behind it shifts."""
    at, size = draw.randint(0, len(content)), draw.randint(1, 64)
    piece = content[at : at + size]
    del content[at : at + size]
    if draw.random() < 0.5:
        there = draw.randint(0, len(content))
        content[there:there] = piece


@dataclass(slots=True)
class Tally:
    accepted: int = 0
    rejected: int = 0
    over_limit: int = 0
    worst_s: float = 0.0
    total_s: float = 0.0
    unexpected: list[str] = field(default_factory=list)

    def judge(self, case: str, file: BinaryIO) -> None:
        took = self._judge_once(case, file)
        if took >= LIMIT_S:  # a busy machine's caches count as this process' time: the best of three says what it costs
            took = min(took, *(_cpu_s(file) for _ in range(2)))
        self.over_limit += took >= LIMIT_S
        self.worst_s, self.total_s = max(self.worst_s, took), self.total_s + took

    def _judge_once(self, case: str, file: BinaryIO) -> float:
        began = time.process_time()
        try:
            read_header(file, "case")
        except ModelFileError:
            self.rejected += 1
        except Exception as error:  # noqa: BLE001  (any other exception is what is looked for)
            self.unexpected.append(f"{case}: {type(error).__name__}: {error}")
        else:
            self.accepted += 1
        return time.process_time() - began


def _cpu_s(file: BinaryIO) -> float:
    began = time.process_time()
    with contextlib.suppress(ModelFileError):
        read_header(file, "case")
    return time.process_time() - began


def run(cases: int, seed: int, real: Path | None) -> Tally:
    tally, draw, base = Tally(), random.Random(seed), sound()
    assert read_header(io.BytesIO(bytes(base.content)), "base").vocab == 300
    for number, content in enumerate(extremes()):
        tally.judge(f"extreme {number}", io.BytesIO(content))
    number_done = tally.accepted + tally.rejected + len(tally.unexpected)
    from_real = functools.partial(_judge_real, tally, real, _header(real), draw) if real else None
    for number in range(number_done, cases):
        if from_real and number % REAL_SHARE == 0:
            from_real(f"case {number}")
        else:
            tally.judge(f"case {number}", io.BytesIO(mutate(bytes(base.content), base.lengths, draw)))
    return tally


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        end = read_header(file, str(path)).data_offset
        file.seek(0)
        return file.read(end)


def _judge_real(tally: Tally, path: Path, header: bytes, draw: random.Random, case: str) -> None:
    lengths = [8, 16, *(draw.randrange(24, len(header) - 8) for _ in range(4))]
    with tempfile.TemporaryFile() as file:
        file.write(mutate(header, lengths, draw))
        file.truncate(path.stat().st_size)
        tally.judge(case, file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=49)
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tally = run(options.cases, options.seed, options.file)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    figures = {
        "cases": options.cases,
        "accepted": tally.accepted,
        "rejected": tally.rejected,
        "unexpected": len(tally.unexpected),
        "over_limit": tally.over_limit,
        "worst_ms": round(1e3 * tally.worst_s, 2),
        "mean_ms": round(1e3 * tally.total_s / options.cases, 3),
        "grown_mb": round(grown_kb / 1024, 1),
    }
    conditions = {"seed": options.seed, "file": options.file and options.file.name, "limit_ms": 1e3 * LIMIT_S}
    for line in tally.unexpected:
        print(line, file=sys.stderr)
    if options.json:
        print(json.dumps({"tool": "gguf_fuzz", "figures": figures, "conditions": conditions}))
    else:
        print("\n".join(f"{name}: {value}" for name, value in (figures | conditions).items()))
    return 1 if tally.unexpected or tally.over_limit else 0


if __name__ == "__main__":
    sys.exit(main())
