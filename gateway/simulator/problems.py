"""The problems of the fleet API and their responses."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

DOCUMENTS = "https://developers.invers.com"
TITLES = {
    "/problems/validation-error": (400, "Validation Error"),
    "/problems/invalid-json": (400, "The body contains invalid JSON."),
    "/problems/referenced-resource-not-found": (400, "A referenced resource cannot be found."),
    "/problems/missing-credentials": (401, "The credentials are missing."),
    "/problems/invalid-credentials": (401, "The credentials are invalid."),
    "/problems/missing-permissions": (403, "Accessing this resource is forbidden."),
    "/problems/forbidden-resource": (403, "Accessing this resource is forbidden."),
    "/problems/resource-not-found": (404, "The resource cannot be found."),
    "/problems/method-not-allowed": (405, "The method is not allowed."),
    "/problems/unsupported-media-type": (415, "The media type is not supported."),
    "/problems/conflicting-resource": (
        409,
        "Request cannot be processed due to a conflicting resource or resource state.",
    ),
    "/problems/unique-identifier-already-exists": (409, "Unique identifier already exists."),
    "/problems/incompatible-telematics-unit-model": (
        409,
        "The desired configuration is not available for the CloudBoxx 3G.",
    ),
    "/problems/incompatible-installation-variant": (409, "Incompatible installation variant."),
    "/problems/vehicle/command-not-supported": (409, "The command is not supported by the vehicle."),
    "/problems/vehicle/conflicting-state": (
        409,
        "The command cannot be executed due to the current state of the vehicle.",
    ),
    "/problems/vehicle/conflicting-command": (
        409,
        "The command cannot be executed because of a conflicting command's processing.",
    ),
    "/problems/vehicle/conflicting-setup-status": (
        409,
        "The operation cannot be performed due to the vehicle's setup status.",
    ),
    "/problems/vehicle/shared-with-partner": (409, "The vehicle is currently shared with a partner."),
    "/problems/resource-modified": (412, "Resource has been modified."),
    "/problems/too-many-requests": (429, "Too many requests."),
    "/problems/internal-server-error": (500, "Internal Server Error"),
    "/problems/telematics-unit/error": (500, "An error occurred on the telematics unit"),
    "/problems/vehicle/not-reachable": (504, "The vehicle cannot be reached."),  # not documented: a guess
}


class ProblemRaised(Exception):
    """A problem response."""

    def __init__(
        self, kind: str, detail: str = "", headers: dict[str, str] | None = None, status: int | None = None
    ) -> None:
        super().__init__(kind)
        self.kind, self.detail, self.headers, self.status = kind, detail, headers or {}, status


def problem_response(request: Request, problem: ProblemRaised) -> Response:
    """The response for a problem; one without a kind is plain text or HTML."""
    known_status, title = TITLES.get(problem.kind, (500, "Error"))
    status = problem.status or known_status
    if not problem.kind:
        return Response(
            problem.detail, status, problem.headers, "text/html" if problem.detail.startswith("<") else "text/plain"
        )
    body = {
        "type": problem.kind,
        "type_documentation": DOCUMENTS + problem.kind,
        "title": title,
        "status": status,
        "detail": problem.detail or title,
        "flow_id": request.state.flow_id,
    }
    return JSONResponse(body, status, problem.headers)
