"""Turns under asyncio: nothing is lost, whoever is cancelled and whenever."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import BusyError, DeadlineError, TooManyRequestsError
from edgeagent.execution.admission import ANYONE, Admission, Claim, Priority

SETTLED = 6
"""Rounds of the event loop after which nothing moves any more by itself."""


async def settle() -> None:
    for _ in range(SETTLED):
        await asyncio.sleep(0)


class Scene:
    """Holders of turns that stay until they are told to go, each counted while it holds one."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.tasks: list[asyncio.Task[None]] = []
        self.running = 0
        self.most = 0
        self.is_alone = False
        self.order: list[str] = []
        self._go: list[asyncio.Event] = []

    def turn(self, claim: Claim = ANYONE) -> asyncio.Task[None]:
        return self._spawn(self._turn(claim))

    def whole(self) -> asyncio.Task[None]:
        return self._spawn(self._whole())

    def away(self, claim: Claim) -> asyncio.Task[None]:
        """A turn that is left at once, and taken again when it is let go."""
        return self._spawn(self._away(claim))

    def let_go(self) -> None:
        """The one that has held for longest."""
        for event in self._go:
            if not event.is_set():
                event.set()
                return

    async def end(self) -> None:
        """Let everyone have a turn, and check that nothing is left."""
        for _ in range(2 * len(self.tasks)):
            self.let_go()
            await settle()
        assert all(task.done() for task in self.tasks)
        assert (self.admission.num_running, self.admission.num_waiting, self.admission.num_requests) == (0, 0, 0)
        async with asyncio.timeout(5), self.admission.turn(), contextlib.AsyncExitStack():
            assert self.admission.num_running == 1
        for task in self.tasks:
            if not task.cancelled():
                error = task.exception()
                assert error is None or isinstance(error, BusyError | DeadlineError)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def _turn(self, claim: Claim) -> None:
        async with self.admission.turn(claim):
            await self._run(claim.user)

    async def _away(self, claim: Claim) -> None:
        with self.admission.turns(claim) as turn:
            await turn.take()
            turn.leave()
            await self._stay()
            await turn.take()
            await self._run(claim.user)

    async def _run(self, user: str) -> None:
        assert not self.is_alone
        self.running += 1
        self.most = max(self.most, self.running)
        self.order.append(user)
        try:
            await self._stay()
        finally:
            self.running -= 1

    async def _whole(self) -> None:
        async with self.admission.whole():
            assert self.running == 0
            assert not self.is_alone
            self.is_alone = True
            self.order.append("whole")
            try:
                await self._stay()
            finally:
                self.is_alone = False

    async def _stay(self) -> None:
        event = asyncio.Event()
        self._go.append(event)
        try:
            await event.wait()
        finally:
            event.set()


def in_scene(use: Callable[[Scene], Awaitable[None]], *, slots: int = 1, queue: int = 8, share: int = 8) -> None:
    async def body() -> None:
        scene = Scene(Admission(slots=slots, queue=queue, per_user=share))
        await use(scene)
        await scene.end()

    asyncio.run(body())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("turn"), st.sampled_from(["ada", "bob"])),
        st.tuples(st.just("away"), st.sampled_from(["ada", "bob"])),
        st.tuples(st.just("late"), st.sampled_from(["ada", "bob"])),
        st.tuples(st.just("whole"), st.just("")),
        st.tuples(st.just("let go"), st.just("")),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("round"), st.just("")),
        st.tuples(st.just("slots"), st.integers(1, 3)),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_is_cancelled_and_whenever_no_turn_is_lost_or_given_twice(steps: list[tuple[str, Any]]) -> None:
    async def use(scene: Scene) -> None:
        for kind, value in steps:
            match kind:
                case "turn":
                    scene.turn(Claim(value))
                case "away":
                    scene.away(Claim(value))
                case "late":
                    scene.turn(Claim(value, deadline_s=0.0))
                case "whole":
                    scene.whole()
                case "let go":
                    scene.let_go()
                case "cancel" if scene.tasks:
                    scene.tasks[value % len(scene.tasks)].cancel()
                case "slots":
                    scene.admission.set_slots(value)
                case "round":
                    await asyncio.sleep(0)
            assert scene.running <= 3
        await settle()
        admission = scene.admission
        if admission.num_waiting and not scene.is_alone and not admission._wholes:
            assert admission.num_running >= admission._queue.slots

    in_scene(use, slots=2, queue=4, share=3)


@pytest.mark.parametrize("num_rounds", range(SETTLED))
def test_turn_given_to_a_waiter_that_is_cancelled_goes_to_the_next(num_rounds: int) -> None:
    async def use(scene: Scene) -> None:
        scene.turn(Claim("first"))
        second = scene.turn(Claim("second"))
        scene.turn(Claim("third"))
        await settle()
        scene.let_go()
        for _ in range(num_rounds):
            await asyncio.sleep(0)
        second.cancel()
        await settle()
        assert scene.order[-1] == "third"
        assert scene.running == 1

    in_scene(use)


def test_no_more_run_than_there_are_slots_and_more_slots_are_used_at_once() -> None:
    async def use(scene: Scene) -> None:
        for _ in range(5):
            scene.turn()
        await settle()
        assert scene.running == 2
        scene.admission.set_slots(4)
        await settle()
        assert (scene.running, scene.admission.num_waiting) == (4, 1)
        scene.admission.set_slots(1)
        for _ in range(3):
            scene.let_go()
        await settle()
        assert (scene.running, scene.admission.num_waiting) == (1, 1)

    in_scene(use, slots=2)


def test_whole_waits_for_turns_and_keeps_new_ones_out() -> None:
    async def use(scene: Scene) -> None:
        scene.turn(Claim("first"))
        scene.turn(Claim("second"))
        await settle()
        scene.whole()
        scene.turn(Claim("third"))
        await settle()
        assert not scene.is_alone
        scene.let_go()
        scene.let_go()
        await settle()
        assert scene.is_alone
        assert scene.admission.num_running == 1
        scene.let_go()
        await settle()
        assert scene.order == ["first", "second", "whole", "third"]

    in_scene(use, slots=2)


def test_whole_that_is_given_up_lets_the_others_in() -> None:
    async def use(scene: Scene) -> None:
        scene.turn(Claim("first"))
        await settle()
        alone = scene.whole()
        scene.turn(Claim("second"))
        await settle()
        alone.cancel()
        await settle()
        assert scene.order == ["first", "second"]

    in_scene(use, slots=2)


def test_full_queue_and_full_share_are_refused_and_others_still_come() -> None:
    async def use(scene: Scene) -> None:
        for _ in range(3):
            scene.turn(Claim("ada"))
        await settle()
        with pytest.raises(TooManyRequestsError, match=r"requests of user 'ada' wait for the model as may \(2\)"):
            async with scene.admission.turn(Claim("ada")):
                pass
        scene.turn(Claim("bob"))
        await settle()
        with pytest.raises(BusyError, match=r"as many requests wait for the model as may \(3\)") as busy:
            async with scene.admission.turn(Claim("bob")):
                pass
        assert not isinstance(busy.value, TooManyRequestsError)

    in_scene(use, queue=3, share=2)


def test_place_keeps_its_room_between_turns() -> None:
    async def use(scene: Scene) -> None:
        admission = scene.admission
        with admission.place(Claim("ada", Priority.HIGH)) as claim:
            async with admission.turn(claim):
                scene.turn(Claim("bob"))
                await settle()
            assert admission.num_requests == 2
            await settle()
            with pytest.raises(BusyError):
                async with admission.turn(Claim("cleo")):
                    pass
            second = scene.turn(claim)
            await settle()
            assert admission.num_waiting == 1
            scene.let_go()
            await settle()
            assert scene.order == ["bob", "ada"]
            scene.let_go()
            await second

    in_scene(use, queue=1, share=1)


def test_turn_that_is_left_goes_to_others_and_is_taken_again_before_them() -> None:
    async def use(scene: Scene) -> None:
        scene.away(Claim("ada", deadline_s=asyncio.get_running_loop().time() + 3600))
        scene.turn(Claim("bob"))
        scene.turn(Claim("cleo"))
        await settle()
        assert scene.order == ["bob"]
        assert (scene.admission.num_running, scene.admission.num_waiting, scene.admission.num_requests) == (1, 1, 3)
        away = asyncio.create_task(scene.admission.until_none_away())
        await settle()
        assert not away.done()
        for expected in ("bob ada", "bob ada cleo"):
            scene.let_go()
            await settle()
            scene.let_go()
            await settle()
            assert " ".join(scene.order) == expected
        assert away.done()

    in_scene(use)


def test_who_is_away_takes_no_room_in_the_queue_and_no_more_are_than_may_wait() -> None:
    async def use(scene: Scene) -> None:
        admission = scene.admission
        for user in ("ada", "ada", "bob", "cleo"):
            scene.away(Claim(user))
            await settle()
        # The second of a user and the third of all stay in their turns.
        assert (admission.num_running, admission.num_requests) == (2, 4)
        scene.turn(Claim("ada"))
        scene.turn(Claim("bob"))
        await settle()
        assert admission.num_waiting == 2
        with pytest.raises(BusyError):
            async with admission.turn(Claim("dan")):
                pass

    in_scene(use, slots=2, queue=2, share=1)


def test_deadline_ends_the_waiting_and_not_the_running() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        admission = Admission(slots=1, queue=4, now=loop.time)
        async with admission.turn(Claim("ada", deadline_s=loop.time() + 0.01)):
            with pytest.raises(DeadlineError, match="of waiting for the model"):
                async with admission.turn(Claim("bob", deadline_s=loop.time() + 0.02)):
                    raise AssertionError("began too late")
            assert admission.num_waiting == 0
        with pytest.raises(DeadlineError):
            async with admission.turn(Claim("bob", deadline_s=loop.time() + 5, needs_s=6)):
                raise AssertionError("began what could not end in time")
        assert admission.num_requests == 0

    asyncio.run(body())


def test_error_inside_a_turn_frees_it() -> None:
    async def use(scene: Scene) -> None:
        with pytest.raises(ValueError, match="inside"):
            async with scene.admission.turn():
                raise ValueError("inside")
        assert scene.admission.num_requests == 0

    in_scene(use)
