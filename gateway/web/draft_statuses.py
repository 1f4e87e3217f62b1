"""Responses as the draft of GraphQL over HTTP had them before its release, for clients that are not ready."""

from __future__ import annotations

from gateway.web.graphql_request import JSON, HTTPError, media_type_for
from gateway.web.responses import ERROR_TYPE, Response

# The statuses of the draft, by those of the release.
DRAFT = {294: 200, 422: 400}


def as_draft(response: Response, accept: bytes | None) -> Response:
    """A response with the draft's status, and with the media type that the `Accept` field prefers also for errors."""
    try:
        media_type = media_type_for(accept)
    except HTTPError:
        media_type = JSON
    content_type = (b"content-type", f"{media_type}; charset=utf-8".encode())
    fields = tuple(content_type if field is ERROR_TYPE else field for field in response.fields)
    return response._replace(status=DRAFT.get(response.status, response.status), fields=fields)
