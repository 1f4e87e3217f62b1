"""Names of the ASGI scope extensions that the gateway's own server provides."""

from __future__ import annotations

# `["send"]` sends a whole response at once.
WHOLE_RESPONSE = "gateway.whole_response"
# A list of functions to call when the client disconnects before the response is complete.
ON_DISCONNECT = "gateway.on_disconnect"
# A list of the slots to release once the response is sent.
SLOTS = "gateway.slots"
