"""Behaviours of the simulated API that the vendor does not document. All can be changed at run time."""

from __future__ import annotations

from typing import Literal

import msgspec


class Behaviours(msgspec.Struct, forbid_unknown_fields=True):
    """The open questions about the fleet API, with the assumed answers as defaults."""

    # Pages and cursors.
    cursor_parameter: str = "cursor"
    default_limit: int = 100
    maximum_limit: int = 1000
    ends: Literal["null", "absent"] = "null"
    trailing_empty_page: bool = False
    empty_page_every: int = 0  # one in so many page boundaries has an empty page; 0: none
    short_pages: int = 0  # one in so many pages has fewer items than the limit; 0: none
    last_page: Literal["head", "tail"] = (
        "head"  # whether the last page starts at a multiple of the limit, or has as many items as the limit
    )
    cursor_style: Literal["keyset", "offset"] = "keyset"
    cursor_tokens: Literal["stable", "fresh"] = "stable"
    cursor_ttl: float = 0  # seconds until a cursor is rejected; 0: never
    limit_with_cursor: Literal["rejected", "ignored"] = "rejected"
    last_cursor: bool = True
    prev_cursor: bool = True
    next_page_token: bool = False  # lists have next_page_token instead of cursors
    endless_empty_pages: bool = False  # empty pages without end follow the first page
    cursor_loop: bool = False  # the next cursor of a page is the page itself
    # Content.
    latest_state_in_list: Literal["full", "empty", "missing"] = "full"
    extended_state: bool = False  # adds state properties that are documented only by name
    early_names: bool = False  # all vehicles have gear_box and fuel_level_in_percent
    q_searches_units: bool = False
    stamp_callers: bool = False  # vehicle_model_id of all vehicles is the requesting client
    etags: bool = True
    not_modified: bool = True  # whether If-None-Match is supported
    etag_form: Literal["strong", "weak"] = "strong"
    # Changes of vehicles.
    edit_method: Literal["PATCH", "PUT"] = "PATCH"  # of the vehicle and of its sub-resources
    sub_resources: tuple[str, ...] = ()  # members with a path of their own, as /vehicles/{id}/operation-status
    body_wrapper: bool = False  # the body of a change is {"vehicle": {…}}
    status_form: Literal["any", "text", "object"] = "any"  # "GARAGE" or {"value": "GARAGE"} in bodies
    write_answers: Literal["vehicle", "empty"] = "vehicle"  # the response to a write that is no command
    media_type_required: bool = True  # a body of another type than JSON is a 415
    # Vehicles that come and go.
    lifecycle_right: str = "vehicle-lifecycle"  # the right to add and archive vehicles
    unit_form: Literal["flat", "nested"] = (
        "flat"  # telematics_unit_id, or telematics_unit {brand, id}, of a new vehicle
    )
    setup_seconds: float = 2  # from adding a vehicle to the end of its setup
    setup_result: Literal["SUCCEEDED", "FAILED"] = "SUCCEEDED"
    archive_path: Literal["delete", "post"] = "delete"  # DELETE /vehicles/{id} or POST /vehicles/{id}/archive
    archived_vehicles: Literal["gone", "readable"] = "gone"  # by their ids; no list has them
    partner_form: Literal["any", "flat", "nested"] = "any"  # partner_fleet_id, or partner {fleet_id}, of a sharing
    # How a sharing ends before its time: DELETE /vehicles/{id}/sharing, POST /vehicles/{id}/sharing/end, or not.
    end_sharing_path: Literal["delete", "post", "none"] = "delete"
    # Commands.
    command_seconds: float = 0  # from a command to its execution
    command_state: Literal["full", "changed", "empty"] = "full"  # the state in the response
    offline_vehicles: Literal["not_reachable", "reachable"] = "not_reachable"
    ignition_on: Literal["moving", "parked"] = "parked"  # whether a vehicle with its ignition on rejects locking
    # Rate limit, for each client.
    rate_limit_requests: int = 600  # in a window; 0: no limit
    rate_limit_seconds: float = 60
    rate_limit_form: Literal["reset", "retry_after"] = "reset"
    token_seconds: float = 900
