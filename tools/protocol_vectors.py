"""Prints the test vectors of docs/protocol.md, made by the code that runs: `protocol_vectors.py [--write]`.

With `--write` the section between the two markers in docs/protocol.md is replaced.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeagent.core.errors import WireError
from edgeagent.core.generation import Sampling
from edgeagent.core.stage_descriptor import StageDescriptor
from edgeagent.execution import canonical
from edgeagent.execution.llama.sampler import draw_seed
from edgeagent.execution.peers import BREAKER_S
from edgeagent.wire import blocks, frames, messages, window
from edgeagent.wire.blocks import BlockReceiver
from edgeagent.wire.frames import Frame, Kind, Lane, block_digest, cut_fragments, encode_fragment, encode_frame
from edgeagent.wire.messages import Message, encode_message
from edgeagent.wire.notes import encode_note
from edgeagent.wire.offers import JobClaim, JobOffer
from edgeagent.wire.records import Receipt, Record
from edgeagent.wire.sealing import Aead, Channel, DirectionKey
from edgeagent.wire.topics import Topics

DOCUMENT = Path(__file__).parent.parent / "docs/protocol.md"
BEGIN, END = "<!-- vectors: begin, written by tools/protocol_vectors.py -->", "<!-- vectors: end -->"

SESSION = bytes(range(frames.SESSION_BYTES))
PROMPT = (1, 127, 128, 300, 16_383, 16_384, 49_151)
LONG_BLOCK = bytes(i % 251 for i in range(100_000))
RUN = "0f1e2d3c4b5a6978"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HEX_COLUMNS = 64


def main() -> int:
    section = "\n".join(sections())
    if "--write" not in sys.argv[1:]:
        print(section, end="")
        return 0
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN + "\n", 1)
    _, after = rest.split(END, 1)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{section}{END}{after}", encoding="utf-8")
    return 0


def sections() -> Iterator[str]:
    """Markdown: a heading, then one fenced block, a line each; the last line ends the section."""
    parts: dict[str, Callable[[], Iterator[str]]] = {
        "Limits": limits,
        "Topics": topics,
        "Messages": message_lines,
        "Notes": note_lines,
        "A peer's status": status,
        "Prompts": prompts,
        "Plain frames": frame_lines,
        "Sealed frames": sealed_lines,
        "Fragments of one block": fragments,
        "Acknowledgements": acknowledgements,
        "Blocks of a cache": cache_blocks,
        "Draws": draws,
        "Refused": refusals,
    }
    for title, lines in parts.items():
        yield from ("", f"### {title}", "", "```text", *lines(), "```")
    yield "\n"


def limits() -> Iterator[str]:
    named = {
        "frame": frames.MAX_FRAME_BYTES,
        "frame header": frames.HEADER_BYTES,
        "payload of a frame": frames.MAX_PAYLOAD_BYTES,
        "data of a fragment": frames.FRAGMENT_DATA_BYTES,
        "its grain": frames.GRAIN_BYTES,
        "block": frames.MAX_BLOCK_BYTES,
        "prompt": messages.MAX_PROMPT_BYTES,
    }
    yield from (f"{name:24} {value:>9} bytes" for name, value in named.items())
    yield f"{'blocks of a session':24} {messages.MAX_BLOCKS:>9} each way"
    yield f"{'window':24} {window.FIRST_BYTES:>9} bytes at first, {window.MAX_BYTES} at most"
    yield f"{'acknowledge every':24} {blocks.ACK_EVERY:>9} fragments"
    yield f"{'most ahead':24} {blocks.MAX_AHEAD:>9} fragments"
    yield f"{'lease':24} {messages.LEASE_S:>9g} s"
    yield f"{'ask again after':24} {window.FIRST_TIMEOUT_S:>9g} s at first"
    yield f"{'breaker':24} {BREAKER_S:>9g} s"


def topics() -> Iterator[str]:
    names = Topics("edgeagent/v1")
    yield f"status of peer garage    {names.peer_status('garage')}"
    yield f"status of every peer     {names.all_peer_status()}"
    yield f"kitchen to garage        {names.to_peer('garage', 'kitchen')}"
    yield f"every device to garage   {names.to_peer_from_all('garage')}"
    yield f"messages to kitchen      {names.to_device('kitchen')}"
    yield f"blocks to kitchen        {names.to_device_bulk('kitchen')}"
    yield f"offers of a model        {names.offers('smollm2-135m-instruct')}"
    yield f"every peer that has it   {names.shared_offers('smollm2-135m-instruct')}"
    yield f"records of kitchen       {names.records('kitchen')}"
    yield f"receipts to kitchen      {names.receipts('kitchen')}"
    yield f"list of a fleet          {names.revocations('abcdefghijklmnopqrstuvwxyz')}"


def message_lines() -> Iterator[str]:
    yield from (encode_message(message).decode() for message in examples())


def examples() -> Iterator[Message]:
    """One message of every type, in the order of a `prefill` session."""
    prompt = messages.encode_tokens(PROMPT)
    key = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    yield messages.Open(
        job="prefill",
        model="smollm2-135m-instruct",
        variant_sha256=SHA256,
        exact_key=key,
        prompt_bytes=len(prompt),
        sampling=Sampling(temperature=0.8, seed=7),
        max_tokens=64,
    )
    yield messages.Accepted(kv_bytes_per_token=12_240)
    yield messages.KeepAlive(ping=1_000_000)
    yield messages.KeepAlive(pong=1_000_000, seen=1)
    yield messages.Resume(seen=1)
    yield messages.Progress(blocks=2)
    yield messages.Ack(base=1, bitmap="6")
    yield messages.Token(position=0, token=1116, piece=b" caf\xc3\xa9".hex())
    yield messages.Done(reason="length", prompt_tokens=len(PROMPT))
    yield messages.Stop()
    yield messages.Failed(code="invalid_request_error", message="this peer does not hold that variant of 'x'")
    yield messages.Open(job="split-decode", model="smollm2-135m-instruct", variant_sha256=SHA256, stage=stage(),
                        prompt_tokens=150, max_tokens=64)  # fmt: skip
    yield messages.Accepted(kv_bytes_per_token=8_976, stage=stage())
    yield messages.Step(block=3, position=150)
    yield messages.Open(job="split-decode", model="smollm2-135m-instruct", variant_sha256=SHA256, stage=stage(),
                        prompt_tokens=150, max_tokens=64, onward=messages.Onward(peer="attic", k=19))  # fmt: skip
    yield messages.Failed(code="peer_error", message="peer attic: the other end said nothing for 2 s", peer="attic")


def stage() -> StageDescriptor:
    return StageDescriptor(
        model="smollm2-135m-instruct",
        variant_sha256=SHA256,
        k=8,
        layers=30,
        width=576,
        hidden="f32",
        kv_type="q8_0",
        kv_planes=(204,) * 44,
        flash_attention=True,
        extra_buffers=True,
        chunk_tokens=64,
        threads=0,
        engine="0.3.36",
        system="AVX2 = 1",
    )


def note_lines() -> Iterator[str]:
    number = SESSION.hex()
    offer = JobOffer(number=number, device="kitchen", job="remote", model="smollm2-135m-instruct",
                     variant_sha256=SHA256, prompt_tokens=900, answer_tokens=64, runs=(RUN,))  # fmt: skip
    for note in (
        offer,
        JobClaim(number=number, peer="garage", finish_s=2.5),
        JobClaim(number=number, peer="attic", refused="overloaded"),
        Record(number=number, device="kitchen", body='{"plan":"local"}'),
        Receipt(number=number, peer="garage"),
    ):
        yield encode_note(note).decode()


def status() -> Iterator[str]:
    offered = messages.OfferedModel(
        model="smollm2-135m-instruct",
        variant="Q4_1",
        variant_sha256=SHA256,
        exact_key="0f1e2d3c4b5a69788796a5b4c3d2e1f0",
        prefill_tok_s=400,
        decode_tok_s=140,
        context_tokens=4096,
        kv_bytes_per_token=12_240,
        cuts=(8, 15),
        beside=((3.25, 1.5),),
        most_between=12,
        loaded=((8, 30),),
        making_s=4.5,
    )
    link = messages.KnownLink(peer="attic", rtt_s=0.004, up_bytes_s=2.5e6, down_bytes_s=5e6)
    for state in (
        messages.PeerStatus(
            id="garage",
            state="online",
            version="0.1.0",
            models=(offered,),
            queue=1,
            capacity=20,
            wait_s=3.25,
            run=RUN,
            links=(link,),
        ),
        messages.PeerStatus(id="garage", state="offline"),
    ):
        yield state.model_dump_json(exclude_none=True)


def prompts() -> Iterator[str]:
    turns = (messages.Turn(role="system", content="Be brief."), messages.Turn(role="user", content="Grüße?"))
    yield f"tokens {list(PROMPT)}"
    yield messages.encode_tokens(PROMPT).hex()
    yield "turns"
    yield messages.encode_turns(turns).decode()


def frame_lines() -> Iterator[str]:
    yield f"session {SESSION.hex()}"
    yield "message " + encode_message(keep_alive()).decode()
    yield from hexadecimal(encode_frame(Frame(Kind.MESSAGE, SESSION, encode_message(keep_alive()))))
    prompt = messages.encode_tokens(PROMPT)
    (only,) = cut_fragments(0, prompt)
    yield f"fragment 0, the whole of block 0: {prompt.hex()}"
    yield from hexadecimal(encode_frame(Frame(Kind.FRAGMENT, SESSION, encode_fragment(0, only))))


def sealed_lines() -> Iterator[str]:
    """From a device to a peer; openings hold fresh keys, so their vectors are in tests/wire/opening_vectors.json."""
    up = DirectionKey(bytes(range(32)), bytes(range(100, 112)))
    for aead in Aead:
        channel = Channel(SESSION, aead, sending=up, receiving=up)
        yield f"{aead.name}, key {up.key.hex()}"
        yield f"mask {up.mask.hex()}, session {SESSION.hex()}"
        for lane, kind, payload in (
            (Lane.MESSAGES, Kind.MESSAGE, encode_message(keep_alive())),
            (Lane.MESSAGES, Kind.MESSAGE, encode_message(messages.Stop())),
            (Lane.BLOCKS, Kind.FRAGMENT, encode_fragment(0, cut_fragments(0, messages.encode_tokens(PROMPT))[0])),
        ):
            yield f"lane {lane}, {kind.name.lower()}: {len(payload)} bytes"
            yield from hexadecimal(channel.seal(kind, payload, lane))


def keep_alive() -> Message:
    return messages.KeepAlive(ping=1_000_000)


def fragments() -> Iterator[str]:
    yield f"block 3, {len(LONG_BLOCK)} bytes, byte i is i mod 251, digest {block_digest(LONG_BLOCK).hex()}"
    for number, fragment in enumerate(cut_fragments(3, LONG_BLOCK)):
        header = encode_fragment(number, fragment)[: -len(fragment.data)]
        yield f"number {number}, offset {fragment.offset:5}, {len(fragment.data):5} bytes, header {header.hex()}"


def acknowledgements() -> Iterator[str]:
    pieces = cut_fragments(3, LONG_BLOCK)
    for arrived in ((0,), (0, 2), (2, 1), (0, 1, 2)):
        receiver = BlockReceiver({3: len(LONG_BLOCK)})
        completed = [receiver.take(number, pieces[number]) for number in arrived][-1]
        whole = "" if completed is None else f", which completes block {completed}"
        yield f"after fragments {arrived}{whole}"
        yield encode_message(receiver.ack()).decode()


def cache_blocks() -> Iterator[str]:
    num_prompt, chunk, cell_bytes = 150, 64, 12_240
    yield f"{num_prompt} prompt tokens, chunks of {chunk}, {cell_bytes} bytes a cell"
    for index in reversed(range(canonical.num_blocks(num_prompt, chunk))):
        first, end = canonical.block_range(index, num_prompt, chunk)
        yield f"block {index}: cells {first}..{end - 1}, {(end - first) * cell_bytes} bytes"


def draws() -> Iterator[str]:
    for seed, position in ((0, 0), (0, 1), (7, 0), (4_294_967_295, 1000)):
        yield f"seed {seed}, position {position}: {draw_seed(seed, position)}"


def refusals() -> Iterator[str]:
    good = encode_frame(Frame(Kind.MESSAGE, SESSION, encode_message(keep_alive())))
    bad = {
        "a byte short": good[:-1],
        "a byte more": good + b"\0",
        "another version": good[:2] + b"\2" + good[3:],
        "a flipped bit in the payload": good[:-1] + bytes([good[-1] ^ 1]),
        "less than a header": good[:27],
    }
    for name, data in bad.items():
        yield f"{name}: {refusal(lambda data=data: frames.decode_frame(data))}"  # type: ignore[misc]
    unknown = b'{"type":"dance"}'
    yield f"{unknown.decode()}: {refusal(lambda: messages.decode_message(unknown))}"


def refusal(decode: Callable[[], object]) -> str:
    try:
        decode()
    except WireError as error:
        return str(error)
    raise AssertionError("it was taken")


def hexadecimal(data: bytes) -> Iterator[str]:
    """Rows of 32 bytes."""
    text = data.hex()
    yield from (text[i : i + HEX_COLUMNS] for i in range(0, len(text), HEX_COLUMNS))


if __name__ == "__main__":
    sys.exit(main())
