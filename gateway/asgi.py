"""Names of the gateway's extensions of an ASGI request scope. Its own server offers them; others need not."""

from __future__ import annotations

# `["send"]` sends a whole response at once.
WHOLE_RESPONSE = "gateway.whole_response"
# A list of functions to call when the client disconnects before the response is complete.
ON_DISCONNECT = "gateway.on_disconnect"
# A list of the slots to give back once the response has left.
SLOTS = "gateway.slots"
