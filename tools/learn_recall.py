"""Learn the weights of recall on LoCoMo and write them: `learn_recall.py [--out edgeagent/agent/memory/recall.json]`.

Needs `$EDGEAGENT_BENCH_DATA` and the encoder. The same data and encoder give the same file up to the last digits.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(Path(__file__).parent / "bench"))
sys.path.insert(0, str(ROOT))

import harness  # noqa: E402
import recall_data  # noqa: E402
import recall_encoder  # noqa: E402
import recall_fit  # noqa: E402

from edgeagent.execution.onnx.engine import SentenceModel  # noqa: E402

SHIPPED = ROOT / "edgeagent" / "agent" / "memory" / "recall.json"


async def cases() -> dict[str, list[recall_data.Case]]:
    models = Path(os.environ.get("EDGEAGENT_STATE") or ROOT / ".state") / "models"
    files = await recall_encoder.files(models)
    matching = recall_data.Matching(SentenceModel.load(files.model, files.tokenizer, 1))
    async with recall_encoder.opened(models) as embedder:
        remembering = recall_data.Remembering(embedder, harness.progress)
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "memory.sqlite"
            for conversation in recall_data.load():
                await recall_data.remember(path, remembering, conversation)
                found[conversation.name] = await recall_data.cases(path, remembering, conversation, matching)
        return found


def document(
    by_conversation: Mapping[str, Sequence[recall_data.Case]], learned: recall_fit.Fit, second: recall_fit.Fit
) -> harness.Json:
    """The file of weights, with what they were learned on."""
    return {
        "about": "Weights of recall's score (agent/memory/features.py says what each feature is): made by "
        "tools/learn_recall.py, which learns on LoCoMo questions and their evidence turns.",
        "conversations": list(by_conversation),
        "questions": sum(map(len, by_conversation.values())),
        **weights(learned),
        "reranked": weights(second),
    }


def weights(learned: recall_fit.Fit) -> harness.Json:
    rounded = {name: round(weight, 4) for name, weight in learned.weights.items()}
    return {"offset": round(learned.offset, 4), "weights": rounded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    by_conversation = asyncio.run(cases())
    for reranks in (False, True):
        judged = recall_fit.leave_one_out(by_conversation, reranks=reranks)
        for k in (5, 10):
            mean = sum(recall_fit.recall_at(case, scores, k) for case, scores in judged) / len(judged)
            print(f"recall@{k}{' reranked' * reranks}, leaving one conversation out: {mean:.4f}")
    every = [case for found in by_conversation.values() for case in found]
    learned = recall_fit.fit(every)
    second = recall_fit.fit_second(every, learned.scorer())
    text = json.dumps(document(by_conversation, learned, second), indent=2)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
