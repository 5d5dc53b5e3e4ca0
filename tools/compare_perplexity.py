"""Does `edgeagent models measure` agree with llama.cpp's own tool? Both on the same files, text and windows.

Build the tool from the sources that the bindings were built from, with their options, and name it:

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
    tar xf llama_cpp_python-0.3.36.tar.gz
    cmake -S llama_cpp_python-0.3.36/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF
    cmake --build build --target llama-perplexity
    .venv/bin/python tools/compare_perplexity.py --llama-perplexity build/bin/llama-perplexity

The text is `wikitext2-test.txt` in $EDGEAGENT_BENCH_DATA unless `--text` names another. Exit status 1 when a variant
is off by more than 1 %.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from edgeagent import parts
from edgeagent.execution.supervisor import Worker
from edgeagent.model.making import one_worker, run
from edgeagent.settings import load_settings

MODEL = "smollm2-135m-instruct"
LIMIT = 0.01
_FINAL = re.compile(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-perplexity", type=Path, required=True, metavar="PATH")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--variant", action="append", default=[], help="May be repeated; else every one that is here.")
    parser.add_argument(
        "--text", type=Path, default=Path(os.environ.get("EDGEAGENT_BENCH_DATA", ".")) / "wikitext2-test.txt"
    )
    parser.add_argument("--chunks", type=int, default=12)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


async def ours(path: Path, opts: argparse.Namespace) -> float:
    async with one_worker(lambda: Worker.spawn("llama")) as worker:
        facts = await run(
            worker,
            "perplexity",
            [opts.text.read_bytes()],
            stage="text",
            path=str(path),
            reference="",
            chunks=opts.chunks,
            context_tokens=opts.context,
            threads=opts.threads,
            extra_buffers=True,
            flash_attention=True,
        )
    return float(str(facts["perplexity"]))


def theirs(path: Path, opts: argparse.Namespace) -> float:
    """One window a batch, as ours; by default the tool evaluates four of them at once."""
    size = str(opts.context)
    command = [str(opts.llama_perplexity), "-m", str(path), "-f", str(opts.text), "-c", size, "-b", size, "-ub", size]
    command += ["-fa", "on", "--chunks", str(opts.chunks), "-t", str(opts.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = _FINAL.search(done.stdout + done.stderr)
    if not found:
        sys.exit(f"error: {opts.llama_perplexity} printed no estimate for {path}; run it by hand")
    return float(found[1])


def main() -> int:
    opts = options()
    store = parts.model_store(load_settings())
    names = opts.variant or [v.name for v in store.registry.card(opts.model).variants]
    rows = []
    for stored in filter(None, (store.find(opts.model, name) for name in names)):
        mine, reference = asyncio.run(ours(stored.path, opts)), theirs(stored.path, opts)
        row = {"variant": stored.variant.name, "ours": mine, "llama_perplexity": reference, "ratio": mine / reference}
        print(json.dumps(row), flush=True)
        rows.append(abs(mine / reference - 1))
    if not rows:
        sys.exit(f"error: no variant of {opts.model} is here; pull or make one")
    return 1 if max(rows) > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
