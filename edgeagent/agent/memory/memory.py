"""Long-term memory as the house uses it: asynchronous, one namespace a user, or an agent of a user.

SQLite runs on one thread of its own; vectors come from the embedder that was given.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar, get_args

from edgeagent.agent.memory.chunking import Piece, pieces
from edgeagent.agent.memory.cues import spoken, without_names
from edgeagent.agent.memory.grouping import GroupedAdditions
from edgeagent.agent.memory.measures import Measure, Unmeasured
from edgeagent.agent.memory.recall import Question
from edgeagent.agent.memory.records import digest_of
from edgeagent.agent.memory.reranking import NUM_RERANKED, reranked
from edgeagent.agent.memory.reranking import shipped as shipped_second
from edgeagent.agent.memory.store import MemoryStore, NewMemory
from edgeagent.core.errors import RequestError
from edgeagent.core.memory import (
    Conversation,
    Embedder,
    MemoryHit,
    MemoryItem,
    MemoryStats,
    Record,
    Vector,
    WordMatcher,
)

Kind = Literal["note", "document", "turn", "event", "summary"]
RecordKind = Literal["fact", "skill", "experience"]
KINDS = (*get_args(Kind), *get_args(RecordKind))
Clock = Callable[[], float]
"""Unix seconds."""

MAX_TEXT_BYTES = 64 * 2**10
MAX_DOCUMENT_BYTES = 8 * 2**20
MAX_SOURCE_BYTES = 1024
MAX_QUERY_CHARS = 8192
"""A longer question is looked up by its beginning (the embedding reads 256 tokens of it)."""
MAX_RESULTS = 1000
EARLIEST, LATEST = -62_135_596_800.0, 253_402_214_400.0
"""Unix seconds of the times that calendars know: from the year 1 to the last day of the year 9999."""
PAGE = 64
"""Memories that are read or embedded in one go by export and import."""

_USER = re.compile(r"[A-Za-z0-9_.@-]{1,64}(?:/[A-Za-z0-9_.@-]{1,64})?")
"""A user, or `user/agent`: what an agent keeps for a user apart from that user's own memories."""
_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Imported:
    """Memories an import stored, and those that were there already."""

    added: int
    known: int


@dataclass(frozen=True, slots=True)
class _Draft:
    kind: str
    text: str
    source: str
    created_at: float
    record: Record | None = None
    conversation: Conversation | None = None
    is_told_now: bool = False

    @property
    def digest(self) -> bytes:
        return digest_of(self.text, self.record, self.conversation)


@dataclass(frozen=True, slots=True)
class Tidied:
    """Ids of memories that were removed: those another one covers (with its id), and the weakest."""

    repeated: dict[str, str]
    faded: tuple[str, ...]


class Memory:
    """Every method takes the user whose memories it sees; another user's do not exist for it.

    All raise RequestError for a malformed argument and MemoryStoreError when the database fails.
    """

    def __init__(
        self,
        store: MemoryStore,
        embedder: Embedder,
        clock: Clock,
        thread: ThreadPoolExecutor,
        matcher: WordMatcher | None = None,
        on_forget: Callable[[], None] | None = None,
    ) -> None:
        self._on_forget = on_forget
        self._store = store
        self._embedder = embedder
        self._matcher = matcher
        self._clock = clock
        self._thread = thread
        self._additions = GroupedAdditions(store, self._run)

    @classmethod
    async def open(
        cls,
        path: Path,
        embedder: Embedder,
        clock: Clock,
        max_memories: int | None = None,
        *,
        matcher: WordMatcher | None = None,
        on_forget: Callable[[], None] | None = None,
    ) -> "Memory":
        """The memory in the file at `path`, made when absent. With a `matcher` the best of what is found gets a second
        score (`reranking`). Embedder and matcher stay the caller's to close.

        `on_forget` is called in a thread when a memory was forgotten or corrected, to remove what others keep of it.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="memory")
        try:
            opening = thread.submit(MemoryStore.open, path, embedder.dimensions, None, max_memories)
            store = await asyncio.wrap_future(opening)
        except BaseException:
            thread.shutdown(wait=False, cancel_futures=True)
            raise
        return cls(store, embedder, clock, thread, matcher, on_forget)

    async def close(self) -> None:
        await self._run(self._store.close)
        self._thread.shutdown(wait=False)

    def now(self) -> float:
        """Unix seconds by the memory's clock."""
        return self._clock()

    async def add(self, user: str, text: str, kind: Kind = "note", source: str = "", at: float | None = None) -> str:
        """Its id. A text the user has stored already keeps its id, kind and source. `at`: when it happened."""
        if at is not None and not EARLIEST <= at < LATEST:
            raise RequestError(f"{at} is no time that a calendar knows; give Unix seconds")
        draft = _Draft(kind, _checked_text(text), _checked_source(source), self._clock() if at is None else at)
        [id_] = await self._add(_checked_user(user), [draft])
        return id_

    async def add_record(self, user: str, kind: RecordKind, text: str, record: Record, source: str = "") -> str:
        """Its id. It supersedes what the user knows of the record's topic; see `learning`."""
        told = (kind, _checked_text(text), _checked_source(source), record.valid_from, record)
        draft = _Draft(*told, is_told_now=True)
        [id_] = await self._add(_checked_user(user), [draft])
        return id_

    async def history(self, user: str, topic: str) -> tuple[MemoryItem, ...]:
        """Records of a topic, the oldest first; the one that holds has no `valid_until`."""
        return await self._run(self._store.history, _checked_user(user), topic)

    async def judge(self, user: str, id_: str, *, is_good: bool) -> float:
        """The worth of a record, -1 to 1, after this judgement. Raises NotFoundError."""
        return await self._run(self._store.judge, _checked_user(user), id_, is_good=is_good)

    async def correct(self, user: str, id_: str, text: str) -> tuple[str, ...]:
        """Put another text in a memory's place; the former is forgotten, with the summaries whose ids it gives.

        Raises NotFoundError.

        A fact is corrected by the newer fact, which keeps the history.
        """
        former = await self._run(self._store.item, _checked_user(user), id_)
        if former.record is not None:
            raise RequestError(f"memory '{id_}' is a {former.kind}; add it anew, which supersedes it, or forget it")
        about = former.conversation
        draft = _Draft(former.kind, _checked_text(text), former.source, former.created_at, conversation=about)
        [vector] = await self._embedder.embed([_matter(draft)])
        gone = await self._run(self._store.correct, user, id_, _memory(draft, vector))
        await self._have_forgotten()
        return gone

    async def tidy(self, user: str, keep: int | None = None, *, only_look: bool = False) -> Tidied:
        """Forget what another memory says as well and, beyond `keep` memories, what has faded most."""
        repeated = await self._run(self._store.repeated, _checked_user(user))
        if repeated and not only_look:
            await self._run(self._store.forget, user, *repeated, with_summaries=False)
        faded = await self._run(self._store.faded, user, keep) if keep is not None else ()
        if faded and not only_look:
            await self._run(self._store.forget, user, *faded, with_summaries=False)
        if (repeated or faded) and not only_look:
            await self._have_forgotten()
        return Tidied(repeated, faded)

    async def unreflected(self, user: str, least: int) -> Sequence[tuple[str, Sequence[str]]]:
        """Sources and texts of some sessions of at least so many turns that have no summary; see `reflecting`."""
        return await self._run(self._store.unreflected, _checked_user(user), least)

    async def back_up(self, file: Path) -> int:
        """Bytes of a copy of the whole file, of all users. Raises RequestError when `file` is there already."""
        return await self._run(self._store.back_up, file)

    async def add_document(self, user: str, text: str, source: str) -> list[str]:
        """The ids of its chunks, in order; all are stored, or none."""
        if _utf8_bytes(text) > MAX_DOCUMENT_BYTES:
            raise RequestError(f"document {source} is over {MAX_DOCUMENT_BYTES} bytes; split it")
        now, checked_source = self._clock(), _checked_source(source)
        drafts = {piece.stored: _of_piece(piece, checked_source, now) for piece in pieces(text)}
        if not drafts:
            raise RequestError(f"document {source} holds no text; nothing was stored")
        return list(await self._add(_checked_user(user), list(drafts.values())))

    async def search(self, user: str, query: str, k: int = 5) -> list[MemoryHit]:
        """At most `k` memories, best first; a score in 0..1 says how likely a memory holds what was asked for."""
        count = _checked_count(k)
        question, nameless = await self._asked(user, query)
        if self._matcher is None:
            return await self._run(self._store.search, user, question, count)
        found = await self._run(self._store.weighed, user, question, max(count, NUM_RERANKED))
        best, others = found[:NUM_RERANKED], [hit for hit, _ in found[NUM_RERANKED:]]
        matches = await self._matcher.match_words(nameless, [spoken(hit.item.text) for hit, _ in best])
        return [*reranked(best, matches, shipped_second()), *others][:count]

    async def question(self, user: str, query: str) -> Question:
        """The question as the store takes it: with its vector, and the time it is asked at."""
        question, _ = await self._asked(user, query)
        return question

    async def _asked(self, user: str, query: str) -> tuple[Question, str]:
        """And its text without the names of those who speak in the user's turns."""
        text = _checked_text(query[:MAX_QUERY_CHARS])
        names = await self._run(self._store.speakers, _checked_user(user))
        nameless = without_names(text, names)
        [vector] = await self._embedder.embed([nameless])
        return Question(text, vector, self._clock()), nameless

    async def list(self, user: str, limit: int = 100, kind: str | None = None) -> "list[MemoryItem]":
        """The newest first, of one kind where one is given."""
        if kind not in (None, *KINDS):
            raise RequestError(f"{kind!r} is no kind of memory; use {', '.join(KINDS)}")
        return await self._run(self._store.list, _checked_user(user), _checked_count(limit), kind)

    async def item(self, user: str, id_: str) -> MemoryItem:
        """Raises NotFoundError."""
        return await self._run(self._store.item, _checked_user(user), id_)

    async def forget(self, user: str, id_: str) -> tuple[str, ...]:
        """Remove text, words and vector from the database, and summaries that may tell the same, whose ids it gives.

        Raises NotFoundError.
        """
        gone = await self._run(self._store.forget, _checked_user(user), id_)
        await self._have_forgotten()
        return gone

    async def _have_forgotten(self) -> None:
        if self._on_forget is not None:
            await asyncio.to_thread(self._on_forget)

    async def holds(self, user: str, texts: Sequence[str]) -> tuple[bool, ...]:
        """Whether each text is stored, and not forgotten."""
        ids = await self._run(self._store.ids, _checked_user(user), texts)
        return tuple(id_ is not None for id_ in ids)

    async def unmeasured(self, limit: int) -> tuple[Unmeasured, ...]:
        """Parts of documents and turns without a measured surprisal: users take turns, the last stored come first."""
        return await self._run(self._store.unmeasured, limit)

    async def keep_measures(self, found: Sequence[tuple[Unmeasured, Measure]]) -> None:
        await self._run(self._store.keep_measures, found)

    async def measures(self, user: str, texts: Sequence[str]) -> tuple[Measure | None, ...]:
        """What was measured of texts that the user has stored; None where nothing was."""
        return await self._run(self._store.measures, _checked_user(user), [text.strip() for text in texts])

    async def summary(self, user: str, conversation: bytes) -> str | None:
        """What sums up the messages with this hash; None when nothing does yet."""
        return await self._run(self._store.summaries.find, _checked_user(user), conversation)

    async def keep_summary(self, user: str, about: Conversation, text: str, since: int) -> str | None:
        """Its id; None when it is not kept: something was forgotten since that number of `forgettings`."""
        now, keep = self._clock(), self._store.summaries.keep
        return await self._run(keep, _checked_user(user), about, _checked_text(text), now, since)

    async def forgettings(self, user: str) -> int:
        """How often the user has had something forgotten: what was read before the last one must not be kept."""
        return await self._run(self._store.summaries.forgettings, _checked_user(user))

    async def since(self, user: str, seen: int | None, conversations: Sequence[bytes]) -> int | None:
        """The number of forgettings, when a conversation may be summed up; see `summaries.Summaries.since`."""
        return await self._run(self._store.summaries.since, _checked_user(user), seen, conversations)

    async def add_since(self, user: str, text: str, kind: Kind, source: str, since: int) -> str | None:
        """As `add`; None when something was forgotten since that number of `forgettings`."""
        draft = _Draft(kind, _checked_text(text), _checked_source(source), self._clock())
        [vector] = await self._embedder.embed([_matter(draft)])
        return await self._run(self._store.add_since, _checked_user(user), _memory(draft, vector), since)

    async def stats(self, user: str) -> MemoryStats:
        return await self._run(self._store.stats, _checked_user(user))

    async def export(self, user: str) -> AsyncIterator[MemoryItem]:
        """Every memory, in the order they were stored; what is added meanwhile comes too."""
        page, last = await self._run(self._store.page, _checked_user(user), 0, PAGE)
        while page:
            for item in page:
                yield item
            page, last = await self._run(self._store.page, user, last, PAGE)

    async def import_(self, user: str, items: Iterable[MemoryItem]) -> Imported:
        """Store the items' texts for `user` under new ids, with their kind, source and time.

        An import that broke off can be repeated: what is there already is left alone.
        """
        remaining = iter(items)
        num_added = num_seen = 0
        while page := list(islice(remaining, PAGE)):
            drafts = list({draft.digest: draft for draft in map(_draft_of, page)}.values())
            ids = await self._ids(_checked_user(user), drafts)
            new = [draft for draft, known in zip(drafts, ids, strict=True) if known is None]
            await self._add(user, new)
            num_added += len(new)
            num_seen += len(page)
        return Imported(num_added, num_seen - num_added)

    async def _add(self, user: str, drafts: Sequence[_Draft]) -> tuple[str, ...]:
        """Their ids. Only texts that are not stored yet are embedded."""
        ids = await self._ids(user, drafts)
        new = [draft for draft, known in zip(drafts, ids, strict=True) if known is None]
        if not new:
            return tuple(known for known in ids if known is not None)
        vectors = await self._embedder.embed([_matter(draft) for draft in new])
        memories = [_memory(draft, vector) for draft, vector in zip(new, vectors, strict=True)]
        added = iter(await self._additions.add(user, memories))
        return tuple(known or next(added) for known in ids)

    async def _ids(self, user: str, drafts: Sequence[_Draft]) -> Sequence[str | None]:
        return await self._run(self._store.ids_of, user, [draft.digest for draft in drafts])

    async def _run(self, work: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(work, *args, **kwargs))


def _matter(draft: _Draft) -> str:
    """What is embedded: of a turn what was said, not who said it."""
    return spoken(draft.text) if draft.kind == "turn" else draft.text


def _memory(draft: _Draft, vector: Vector) -> NewMemory:
    told = (draft.kind, draft.text, draft.source, draft.created_at)
    return NewMemory(*told, vector, draft.record, draft.conversation, draft.is_told_now)


def _of_piece(piece: Piece, source: str, now: float) -> _Draft:
    """A turn of a log is remembered like any other, at its own time where the log tells it."""
    said_at = now if piece.said_at is None else piece.said_at
    return _Draft("turn" if piece.is_turn else "document", piece.stored, source, said_at)


def _draft_of(item: MemoryItem) -> _Draft:
    kinds = get_args(Kind) if item.record is None else get_args(RecordKind)
    times = (item.created_at, *((item.record.valid_from, item.record.valid_until or 0.0) if item.record else ()))
    if item.kind not in kinds or not all(EARLIEST <= time < LATEST for time in times):
        raise RequestError(f"memory '{item.id}' has no valid kind or time; correct or remove it")
    if item.record:
        _checked_text(item.record.topic)
        _checked_text(item.record.body)
    if item.conversation and item.kind != "summary":
        raise RequestError(f"memory '{item.id}' is a {item.kind} and sums up a conversation; correct or remove it")
    text, source = _checked_text(item.text), _checked_source(item.source)
    return _Draft(item.kind, text, source, item.created_at, item.record, item.conversation)


def _checked_user(user: str) -> str:
    if not _USER.fullmatch(user):
        raise RequestError(
            f"{user!r} is no user name; use 1 to 64 letters, digits or any of _ . @ - (an agent's own: user/agent)"
        )
    return user


def _checked_count(count: int) -> int:
    if not 1 <= count <= MAX_RESULTS:
        raise RequestError(f"{count} results were asked for; ask for 1 to {MAX_RESULTS}")
    return count


def _checked_text(text: str) -> str:
    if not (stripped := text.strip()):
        raise RequestError("the text is empty; nothing was stored or looked up")
    if (size := _utf8_bytes(stripped)) > MAX_TEXT_BYTES:
        raise RequestError(f"the text has {size} bytes, {MAX_TEXT_BYTES} are the limit; add it as a document")
    return stripped


def _checked_source(source: str) -> str:
    if _utf8_bytes(source) > MAX_SOURCE_BYTES:
        raise RequestError(f"the source's name is over {MAX_SOURCE_BYTES} bytes; shorten it")
    return source


def _utf8_bytes(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise RequestError("the text is not valid Unicode (a lone surrogate); correct its encoding") from None
