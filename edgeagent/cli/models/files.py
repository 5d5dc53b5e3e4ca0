"""`edgeagent models pull` and `rm`: files that come and go."""

import asyncio

import click

from edgeagent import parts
from edgeagent.cli.models.group import JsonObject, as_json_option, models, print_facts, stored_facts, variant_option
from edgeagent.cli.progress import show_progress
from edgeagent.model.preview import Missing, Preview
from edgeagent.model.quota import Tenant
from edgeagent.settings import load_settings


@models.command("pull")
@click.argument("model_id", metavar="ID")
@variant_option
@click.option("--dry-run", is_flag=True, help="Say what it would take, and whether that is there; fetch nothing.")
@click.option("--repin", is_flag=True, help="Accept another file than the one that was pinned when first fetched.")
@click.option("--adapter", metavar="NAME", help="Fetch this LoRA adapter of the card instead of a variant.")
@as_json_option
def pull_model(
    model_id: str, variant: str | None, dry_run: bool, repin: bool, adapter: str | None, as_json: bool
) -> None:
    """Fetch a variant, check it, and keep it for offline use."""
    store = parts.model_store(load_settings())
    if adapter is not None:
        if variant is not None or dry_run:
            raise click.UsageError("give --adapter without --variant and --dry-run")
        with show_progress(f"fetching {model_id}:{adapter}") as on_progress:
            path = asyncio.run(store.pull_adapter(model_id, adapter, on_progress, repin=repin))
        print_facts({"id": model_id, "adapter": adapter, "path": str(path)}, as_json, f"{adapter} is here: {path}")
        return
    if dry_run:
        preview = asyncio.run(store.preview(model_id, variant, repin=repin))
        print_facts(_preview_facts(preview), as_json, _preview_text(preview))
        return
    with show_progress(f"fetching {model_id}") as on_progress:
        pulled = asyncio.run(store.pull(model_id, variant, on_progress, repin=repin))
    facts = stored_facts(pulled.stored) | {"evicted": [_tenant_facts(tenant) for tenant in pulled.evicted]}
    lines = [f"{t.model} {t.variant} had to go for models.quota_bytes: {t.bytes / 1e6:.1f} MB" for t in pulled.evicted]
    here = f"{pulled.stored.card.id} {pulled.stored.variant.name} is here: {pulled.stored.path}"
    print_facts(facts, as_json, "\n".join([*lines, here]))


@models.command("rm")
@click.argument("model_id", metavar="ID")
@variant_option
@as_json_option
def remove_model(model_id: str, variant: str | None, as_json: bool) -> None:
    """Delete a model's files, or those of one variant."""
    freed = asyncio.run(parts.model_store(load_settings()).remove(model_id, variant))
    facts: JsonObject = {"id": model_id, "variant": variant, "freed_bytes": freed}
    print_facts(facts, as_json, f"{model_id}: {freed / 1e6:.1f} MB freed")


def _tenant_facts(tenant: Tenant) -> JsonObject:
    return {"id": tenant.model, "variant": tenant.variant, "bytes": tenant.bytes}


def _preview_facts(preview: Preview) -> JsonObject:
    space, needed = preview.space, preview.needed_bytes
    return {
        "id": preview.card.id,
        "variant": preview.variant.name,
        "on_disk": not preview.missing,
        "files": [_missing_facts(missing) for missing in preview.missing],
        "needed_bytes": needed,
        "free_bytes": space.free_bytes,
        "fits_disk": preview.fits_disk,
        "quota_bytes": space.quota_bytes or None,
        "used_bytes": space.used_bytes,
        "fits_quota": preview.fits_quota,
        "would_evict": [_tenant_facts(tenant) for tenant in space.evictions or ()],
    }


def _missing_facts(missing: Missing) -> JsonObject:
    file, facts = missing.file, missing.facts
    return {
        "file": file.file,
        "source": file.source.kind,
        "bytes": facts.bytes,
        "sha256": facts.sha256,
        "commit": facts.origin.commit or None if facts.origin else None,
        "here_bytes": missing.here_bytes,
    }


def _preview_text(preview: Preview) -> str:
    name, space = f"{preview.card.id} {preview.variant.name}", preview.space
    if not preview.missing:
        return f"{name} is here already"
    lines = [_missing_line(missing) for missing in preview.missing]
    lines.append(f"disk: {space.free_bytes / 1e6:.1f} MB free, {_verdict(preview.fits_disk)}")
    if space.quota_bytes:
        taken = f"{space.used_bytes / 1e6:.1f} of {space.quota_bytes / 1e6:.1f} MB"
        lines.append(f"quota: {taken} taken, {_verdict(preview.fits_quota)}")
    lines += [f"would remove {t.model} {t.variant}: {t.bytes / 1e6:.1f} MB" for t in space.evictions or ()]
    return "\n".join([f"{name} would be fetched", *lines])


def _missing_line(missing: Missing) -> str:
    facts = missing.facts
    size = f"{facts.bytes / 1e6:.1f} MB" if facts.bytes else "of unknown size"
    here = f", {missing.here_bytes / 1e6:.1f} MB of it here" if missing.here_bytes else ""
    return f"{missing.file.file}: {size}{here}, sha256 {facts.sha256 or 'unknown: it will be pinned when it is here'}"


def _verdict(fits: bool | None) -> str:
    return {True: "fits", False: "does not fit", None: "nobody says whether it fits"}[fits]
