"""What goes on now, for administrators: every sequence, whose it is, how fast it gets on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends

from quern.api.shared.headers import administrator
from quern.api.shared.services import ServicesDep
from quern.turns.activity import ActiveTurn, Activity, EngineActivity

router = APIRouter(prefix="/v1/admin", tags=["administration"], dependencies=[Depends(administrator)])


@router.get("/activity")
async def activity(services: ServicesDep) -> dict[str, Any]:
    """The engine, the keys and their active turns, those that run first. Nothing of what they are about."""
    return activity_json(services.activity.now())


def activity_json(now: Activity) -> dict[str, Any]:
    """The moment as JSON; rates are tokens a second. `engine` is the default model's, `engines` are all."""
    return {
        "object": "activity",
        "stopping": now.stopping,
        "engine": _engine(now.engines[0]),
        "engines": [_engine(one) for one in now.engines],
        "keys": _by_key(now.turns),
        "turns": [_turn(turn) for turn in now.turns],
    }


def _engine(one: EngineActivity) -> dict[str, Any]:
    stats, info = one.stats, one.info
    return {
        "state": stats.state.value,
        "load_progress": round(stats.load_progress, 3),
        "running": stats.running,
        "waiting": stats.waiting,
        "kv_blocks": asdict(stats.kv) if stats.kv is not None else None,
        "name": info.engine if info is not None else None,
        "model": one.model,
        "parallel": info.parallel if info is not None else None,
        "context_length": info.context_length if info is not None else None,
    }


def _turn(turn: ActiveTurn) -> dict[str, Any]:
    values, speed = asdict(turn), turn.tokens_per_second
    return {
        "id": values.pop("id"),
        "key_id": values.pop("owner"),
        **values,
        "age_seconds": round(turn.age_seconds, 2),
        "tokens_per_second": round(speed, 2) if speed is not None else None,
    }


def _by_key(turns: Iterable[ActiveTurn]) -> list[dict[str, Any]]:
    """Sums of each key's turns, in order of appearance."""
    keys: dict[str, dict[str, Any]] = {}
    for turn in turns:
        names = {"key": turn.key, "key_id": turn.owner}
        sums = keys.setdefault(turn.owner, {**names, "running": 0, "waiting": 0, "tokens_per_second": 0.0})
        sums["waiting" if turn.state == "queued" else "running"] += 1
        sums["tokens_per_second"] = round(sums["tokens_per_second"] + (turn.tokens_per_second or 0.0), 2)
    return list(keys.values())
