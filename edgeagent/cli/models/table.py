"""Variants as lines of text: what `edgeagent models list` and `show` print for people."""

from collections.abc import Iterator, Sequence

from edgeagent.cli.models.group import JsonObject

LEGEND = """\
* the choice for this machine   MB: ~ predicted from the model's shape   memory: with the context beside it
tokens a second and seconds to the first token of 1,000: m measured, p predicted from this machine's arithmetic,
e estimated from other figures   quality: perplexity where it was measured, else the place among the model's variants"""

HEADER = (
    f"  {'variant':<34}{'MB':>8}  {'here':<5}{'fits':<5}{'memory':>8} {'context':<13}"
    f"{'read/s':>9}{'write/s':>9}{'first s':>9}  quality"
)


def listing_lines(facts: Sequence[JsonObject], *, with_all: bool) -> Iterator[str]:
    """A line for each variant that is here or fits, or for all."""
    yield HEADER
    num_hidden = 0
    for model in facts:
        for row in _rows(model):
            if with_all or row["on_disk"] or row["problem"] or row["fits"] is not False:
                yield _line(str(model["id"]), row)
            else:
                num_hidden += 1
    if num_hidden:
        yield f"  {num_hidden} more do not fit; see them with --all"


def pareto_lines(model: JsonObject) -> Iterator[str]:
    """A model's variants: those that no other beats in everything first, then the others, with what speaks against."""
    rows = sorted(_rows(model), key=lambda row: (not row["pareto"], row["quality_rank"] or 0))
    yield HEADER
    for row in rows:
        reason = row["rejected"] or ("" if row["pareto"] or row["fits"] is None else "another is better in everything")
        yield _line("", row) + (f"   ({reason})" if reason else "")


def _rows(model: JsonObject) -> list[JsonObject]:
    rows = model["variants"]
    assert isinstance(rows, list)
    return rows


def _line(model_id: str, row: JsonObject) -> str:
    mark = "*" if row["chosen"] else " "
    name = f"{model_id} {row['name']}".strip()
    size = ("~" if row["bytes_predicted"] else "") + _number(row["bytes"], 1e6, 1)
    here = "bad" if row["problem"] else "yes" if row["on_disk"] else "no"
    fits = "-" if row["fits"] is None else "yes" if row["fits"] else "no"
    context = f"{row['context_tokens']} {row['kv_type']}" if row["context_tokens"] else "-"
    basis = str(row["speed"] or " ")[0]
    speeds = "".join(f"{_marked(row[key], basis):>9}" for key in ("prefill_tok_s", "decode_tok_s", "ttft_s"))
    memory = _number(row["memory_bytes"], 1e6, 0)
    return f"{mark} {name:<34}{size:>8}  {here:<5}{fits:<5}{memory:>8} {context:<13}{speeds}  {_quality(row)}"


def _number(value: object, unit: float, digits: int) -> str:
    return f"{value / unit:.{digits}f}" if isinstance(value, int | float) else "-"


def _marked(value: object, basis: str) -> str:
    return f"{_number(value, 1, 1)}{basis}" if value is not None else "-"


def _quality(row: JsonObject) -> str:
    if row["perplexity"] is not None:
        return str(row["perplexity"])
    rank = row["quality_rank"]
    return f"#{rank + 1} by type" if isinstance(rank, int) else "-"
