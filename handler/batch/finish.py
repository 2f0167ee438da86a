"""The end of a run, and its status until then: sums over the summaries of its parts."""

import platform
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import orjson

from handler.batch import BatchError, storage
from handler.batch.plan import Plan, read_plan, read_shards
from handler.batch.score import SUMMARIES
from handler.batch.storage import Storage
from handler.iso_time import iso_time

# of Lambda, on x86_64 and on arm64; `answerable cost` has the other prices
GB_SECOND_USD = (1.66667e-5, 1.33334e-5)
MANIFEST, SUCCESS, FAILURE = "manifest.json", "_SUCCESS", "failed.json"


def finish(run: Storage, plan: Plan) -> dict[str, Any]:
    """Write the manifest of a run and `_SUCCESS`. Raise BatchError if a part is missing."""
    shards = read_shards(run)
    present = set(run.names(SUMMARIES))
    missing = [s.name for s in shards if f"{SUMMARIES}/{s.name}.json" not in present]
    if missing:
        raise BatchError(f"{len(missing)} of {len(shards)} parts are missing, first {missing[0]}")
    names = [f"{SUMMARIES}/{shard.name}.json" for shard in shards]
    summaries = _read(run, names)
    first_row = 0
    for summary in summaries:
        summary["first_row"] = first_row
        first_row += summary["rows"]
    document = {
        "run": plan.id,
        "model": plan.model,
        "function_version": plan.function_version,
        "options": plan.options,
        "inputs": plan.sources,
        "started": plan.started,
        "finished": iso_time(int(time.time())),
        **_totals(summaries),
        "parts": summaries,
    }
    storage.put_json(run, MANIFEST, document)
    storage.put_bytes(run, SUCCESS, b"")
    return document


def status(run: Storage) -> dict[str, Any]:
    """Return what is done of a run, its rate, and when it will be finished. Raise BatchError."""
    failure = orjson.loads(run.read(FAILURE) or b"{}")
    try:
        plan = read_plan(run)
    except BatchError:
        if failure:
            return {"status": "failed", **failure}
        raise
    if content := run.read(MANIFEST):
        manifest = orjson.loads(content)
        del manifest["parts"]
        return {"status": "succeeded", **manifest, "parts": plan.shards, "parts_done": plan.shards}
    names = run.names(SUMMARIES)
    totals = _totals(_read(run, names))
    elapsed = max(1.0, time.time() - _seconds(plan.started))
    rate = totals["rows"] / elapsed
    document = {
        "status": "failed" if failure else "running",
        "run": plan.id,
        "started": plan.started,
        "parts": plan.shards,
        "parts_done": len(names),
        **totals,
        "estimated_rows": plan.rows,
        "rows_per_second": round(rate),
        "model": plan.model,
    }
    if failure:
        return {**document, **failure}
    if rate:
        left = max(0, plan.rows - totals["rows"]) / rate
        document["estimated_finish"] = iso_time(int(time.time() + left))
    return document


def _read(run: Storage, names: list[str]) -> list[dict[str, Any]]:
    """Return the summaries, read side by side."""
    with ThreadPoolExecutor(storage.THREADS) as pool:
        return [orjson.loads(content) for content in pool.map(run.read, names) if content]


def _totals(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    rows, refused, seconds, gigabyte_seconds = (
        sum(summary[name] for summary in summaries)
        for name in ("rows", "refused", "seconds", "gigabyte_seconds")
    )
    return {
        "rows": rows,
        "refused": refused,
        "worker_seconds": round(seconds, 3),
        "usd": round(gigabyte_seconds * GB_SECOND_USD[platform.machine() == "aarch64"], 4),
    }


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
