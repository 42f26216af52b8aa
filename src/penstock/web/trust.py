"""Routes that prove and hand out versions: verify, rebuild, export."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response, StreamingResponse

from penstock.errors import UsageError
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.envelope import answer


class Asked(BaseModel):
    """Body that asks for a verification."""

    model_config = ConfigDict(extra="forbid")

    number: int | None = None
    """None: all versions."""
    rebuild: bool = False
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None


async def asked_of(request: Request) -> Asked:
    """Read what is asked."""
    try:
        asked = Asked.model_validate_json(await request.body() or b"{}")
    except ValidationError as error:
        told = "; ".join(f"{one['loc']}: {one['msg']}" for one in error.errors())
        raise UsageError(
            "PS828", f"The request is not understood: {told}.", hint="Look at the API's page."
        ) from None
    if asked.rebuild and asked.number is None:
        raise UsageError(
            "PS144", "A rebuild is of one version.", hint="Name it: penstock verify NAME@3."
        )
    return asked


Body = Annotated[Asked, Depends(asked_of)]


def routes(router: APIRouter, control: Control) -> None:
    """Add the routes."""

    @router.post("/api/models/{name}/verify")
    def verify(request: Request, name: str, asked: Body) -> Response:
        # A rebuild takes the machine's time, as a push does.
        person = require(request, "push" if asked.rebuild else "read", name)
        made = control.acts.verify(
            person, name, asked.number, rebuild=asked.rebuild, seed=asked.seed
        )
        return answer("verification", made)

    @router.get("/api/verifications/{verification_id}")
    def verification(request: Request, verification_id: int) -> Response:
        found = control.acts.verification(verification_id)
        require(request, "read", found.model)
        return answer("verification", found)

    @router.get("/api/models/{name}/versions/{number}/export")
    def export(request: Request, name: str, number: int, *, signed: bool = False) -> Response:
        require(request, "read", name)
        archive = control.acts.export(name, number, signed=signed)
        headers = {"Content-Disposition": f'attachment; filename="{name}-{number}.tar"'}
        return StreamingResponse(archive, headers=headers, media_type="application/x-tar")
