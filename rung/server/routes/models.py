"""Who can be asked."""

from __future__ import annotations

from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request
from pydantic import BaseModel, ConfigDict

from rung.engine import ServedModel
from rung.server.routing import ADMIN, ANY_KEY, Routes, needs
from rung.server.state import service_of

routes = Routes("/v1/models", scope=ANY_KEY, tags=["models"])


class Model(BaseModel):
    """A model in OpenAI's words; an adapter also tells its base and its parent."""

    model_config = ConfigDict(extra="forbid")
    id: str
    object: str = "model"
    created: int
    owned_by: str
    root: str | None = None
    parent: str | None = None


class ModelList(BaseModel):
    object: str = "list"
    data: list[Model]


class ModelDeleted(BaseModel):
    id: str
    object: str = "model"
    deleted: bool


@routes.get("", response_model=ModelList, response_model_exclude_none=True)
def list_models(request: Request) -> dict[str, Any]:
    """All of them."""
    engine = service_of(request).engine
    found = [(engine.models.get(name), name) for name in engine.registry.shown]
    return {"object": "list", "data": [described(m, name) for m, name in found if m is not None]}


@routes.get("/{model:path}", response_model=Model, response_model_exclude_none=True)
def get_model(request: Request, model: str) -> dict[str, Any]:
    """One of them."""
    return described(service_of(request).engine.model(model), model)


@routes.delete("/{model:path}", response_model=ModelDeleted)
@needs(ADMIN)
async def delete_model(request: Request, model: str) -> dict[str, Any]:
    """Stop serving an adapter under all its names, and remove it from the store."""
    await run_sync(service_of(request).catalogue.stop_serving, model)
    return {"id": model, "object": "model", "deleted": True}


def described(model: ServedModel, name: str) -> dict[str, Any]:
    """A model as the API shows it."""
    shown = {"id": name, "object": "model", "created": model.created, "owned_by": model.owned_by}
    return shown if model.root is None else {**shown, "root": model.root, "parent": model.parent}
