"""Op `surprisal` of a llama worker, with the real model."""

import asyncio
import math

from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.model.store import StoredVariant
from edgeagent.model.surprisal import of_words

PLAIN = "The capital of France is Paris."
ODD = "The capital of France is Xylophone."


def test_a_text_that_could_be_guessed_has_less_surprisal_and_answers_are_not_disturbed(
    smollm2: StoredVariant,
) -> None:
    async def work() -> None:
        local = LocalModel(
            LoadSettings(
                str(smollm2.path), smollm2.sha256, 512, "q8_0", flash_attention=True, threads=1, extra_buffers=False,
                chunk_tokens=64,
            )
        )  # fmt: skip
        try:
            plain, odd, empty = await local.surprisals([PLAIN, ODD, ""])
            assert empty == []
            assert sum(size for size, _ in plain) == len(PLAIN)
            known, strange = of_words(PLAIN, plain), of_words(ODD, odd)
            assert known[:5] == strange[:5]
            assert known[5] + 5 < strange[5]
            assert all(math.isfinite(bits) and bits >= 0 for bits in known)
            long = await local.surprisals([f"{PLAIN} " * 40])
            assert sum(bits or 0 for _, bits in long[0][-7:]) < sum(bits or 0 for _, bits in plain)
            [cut] = await local.surprisals([f"{PLAIN} " * 100])
            assert 500 < len(cut) < 512
        finally:
            await local.close()

    asyncio.run(work())
