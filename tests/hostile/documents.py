"""GraphQL requests that are costly or malformed on purpose: each a body for POST, as small as possible.

Each new attack is added to one of these functions, so that every later run tries it.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

from gateway.schema.cursors import set_of
from gateway.schema.global_ids import vehicle_global_id

Body = dict[str, Any]
# A variable of any type that a federation router could send.
NESTED = 'query($x:%sInt%s){_entities(representations:[{__typename:"Vehicle",vehicleId:"JQ7RP",a:$x}]){__typename}}'


def variables_that_do_not_fit() -> dict[str, Body]:
    query = "query($i:[ID!]!){nodes(ids:$i){id}}"
    return {
        "objects for ids": {"query": query, "variables": {"i": [{}] * 60_000}},
        "nulls for ids": {"query": query, "variables": {"i": [None] * 40_000}},
        "lists for ids": {"query": query, "variables": {"i": [[[]]] * 30_000}},
        "numbers for ids": {"query": query, "variables": {"i": [0.5] * 40_000}},
        "texts for numbers": {
            "query": "query($i:Int){vehicles(first:$i){nodes{id}}}",
            "variables": {"i": ["x"] * 40_000},
        },
        "single values for lists in lists": {
            "query": NESTED % ("[" * 60, "]" * 60),
            "variables": {"x": [1] * 15_000},
        },
        "values for ten lists in lists": {"query": NESTED % ("[" * 10, "]" * 10), "variables": {"x": [1] * 19_999}},
        "a default of lists in lists": {"query": NESTED % ("[" * 60, "]" * 60 + "=[%s]" % ("1," * 1500))},
        "members of no input": {
            "query": "query($i:[ID!]!){nodes(ids:$i){id}}",
            "variables": {"i": {str(number): {} for number in range(15_000)}},
        },
        "entities of nothing": {
            "query": "query($r:[_Any!]!){_entities(representations:$r){__typename}}",
            "variables": {"r": [{}] * 60_000},
        },
        "entities that are numbers": {
            "query": "query($r:[_Any!]!){_entities(representations:$r){__typename}}",
            "variables": {"r": [1] * 60_000},
        },
    }


def fields_times_nodes(vehicle_ids: list[str]) -> dict[str, Body]:
    """Small documents with large responses; the ids are of existing vehicles."""
    ids = [vehicle_global_id(vehicle_ids[number % len(vehicle_ids)]) for number in range(1000)]
    state = "position{value{lat lon} timestamp} mileageInKilometers{value timestamp} ignition{value rawValue timestamp}"
    of_each = {
        "55 aliases of 1000 ids": " ".join(f"a{number}:latestState{{{state}}}" for number in range(55)),
        "60 aliases of 1000 ids": " ".join(f"a{number}:latestState{{ignition{{value}}}}" for number in range(60)),
        "types of 1000 ids": "latestState{%s}" % " ".join(f"a{number}:__typename" for number in range(90)),
        "properties of 1000 ids": " ".join(f"a{n}:latestState{{properties{{name value}}}}" for n in range(20)),
        "more fields than are compiled": " ".join(f"a{number}:latestState{{{state}}}" for number in range(15)),
    }
    queries = {
        name: {"query": "query($i:[ID!]!){nodes(ids:$i){... on Vehicle{%s}}}" % fields, "variables": {"i": ids}}
        for name, fields in of_each.items()
    }
    # With an invalid id nothing is projected.
    queries["60 aliases of 1000 ids and an error"] = {
        **queries["60 aliases of 1000 ids"],
        "variables": {"i": [*ids[1:], "x"]},
    }
    aliases = " ".join(f"a{number}:vehicleId" for number in range(55))
    queries["wide pages"] = {"query": "{vehicles(first:500){nodes{%s} edges{node{%s}}}}" % (aliases, "id")}
    queries["1000 errors"] = {
        "query": "query($i:[ID!]!){%s}" % " ".join(f"a{number}:nodes(ids:$i){{id}}" for number in range(49)),
        "variables": {"i": ["x"] * 400},
    }
    return queries


def introspections() -> dict[str, Body]:
    fields = "fields(includeDeprecated:true){name args{name} type{name ofType{name ofType{name}}}}"
    return {
        "90 aliases of types": {
            "query": "{__schema{%s}}fragment T on __Type{name %s}"
            % (" ".join(f"a{number}:types{{...T}}" for number in range(90)), fields)
        },
        "49 schemas": {
            "query": "{%s}fragment T on __Type{name %s}"
            % (" ".join(f"a{number}:__schema{{types{{...T}}}}" for number in range(49)), fields)
        },
        "50 times the subgraph": {
            "query": "{_service{%s} %s}"
            % (
                " ".join(f"a{number}:sdl" for number in range(50)),
                " ".join(f"b{number}:_service{{sdl}}" for number in range(49)),
            )
        },
        "90 aliases of all of a type": {
            "query": '{__type(name:"VehicleState"){%s}}fragment T on __Type{name %s}'
            % (" ".join(f"a{number}:fields{{type{{...T}}}}" for number in range(90)), fields)
        },
        "types in types": {
            "query": "{__schema{types{fields{type{fields{type{fields{type{fields{name}}}}}}}}}}",
        },
    }


def long_keys() -> dict[str, Body]:
    """Long response keys, on many objects or in the paths of many errors."""
    alias = "a" * 60_000
    nodes = "query($i:[ID!]!){%s}"
    wrong = [f"wrong{number}" for number in range(1000)]
    return {
        "at vehicles": {"query": f"{{vehicles(first:500){{nodes{{{alias}:id}}}}}}"},
        "at vehicles of many fields": {
            "query": "{%s}fragment F on Vehicle{%s:id}"
            % (" ".join(f"a{number}:vehicles(first:250){{nodes{{...F}}}}" for number in range(40)), alias)
        },
        "at properties": {
            "query": f"{{vehicles(first:60){{nodes{{latestState{{properties{{{alias}:name}}}}}}}}}}",
        },
        "in paths": {"query": nodes % f"{alias}:nodes(ids:$i){{id}}", "variables": {"i": wrong}},
        "in paths of entities": {
            "query": "query($i:[_Any!]!){%s:_entities(representations:$i){__typename}}" % alias,
            "variables": {"i": [{"__typename": "Nope"}] * 1000},
        },
        "in a variable's name": {
            "query": "query($%s:[ID!]!){nodes(ids:$%s){id}}" % (alias[:30_000], alias[:30_000]),
            "variables": {alias[:30_000]: [{}] * 1000},
        },
    }


def many_errors() -> dict[str, Body]:
    """Invalid ids in many fields, and invalid values in many variables."""
    names = range(40)
    return {
        "20000 wrong ids": {
            "query": "query($i:[ID!]!){%s}" % " ".join(f"a{number}:nodes(ids:$i){{id}}" for number in range(20)),
            "variables": {"i": [f"wrong{number}" for number in range(1000)]},
        },
        "20000 wrong entities": {
            "query": "query($i:[_Any!]!){%s}"
            % " ".join(f"a{number}:_entities(representations:$i){{__typename}}" for number in range(20)),
            "variables": {"i": [{"__typename": "Nope"}] * 1000},
        },
        "1000 errors behind 30000 lines": {
            "query": "query($i:[ID!]!){%snodes(ids:$i){id}}" % ("\n" * 30_000),
            "variables": {"i": ["x"] * 1000},
        },
        "1000 errors of 100 merged fields": {
            "query": "query($i:[ID!]!){%s%s}" % ("\r" * 30_000, "nodes(ids:$i){id}" * 40),
            "variables": {"i": ["x"] * 1000},
        },
        "40 lists of wrong values": {
            "query": "query(%s){%s}"
            % (
                ",".join(f"$v{number}:[ID!]!" for number in names),
                " ".join(f"a{number}:nodes(ids:$v{number}){{id}}" for number in names),
            ),
            "variables": {f"v{number}": [{}] * 450 for number in names},
        },
    }


def former_bugs() -> dict[str, Body]:
    """Requests that used to be internal errors, or to pass the limits."""
    body = b"\x98\x02\xc4\x08" + set_of("vehicles", None) + b"\xc0\xa2\xff\xfe\x00\x00\xc0\xc0"
    cursor = base64.urlsafe_b64encode(zlib.crc32(body).to_bytes(4, "big") + body).decode().rstrip("=")
    aliases = " ".join(f"a{number}:telematicsUnit{{id}}" for number in range(90))
    return {
        "an operation without a name": {"query": "{vehicles(first:500){nodes{%s}}}" % aliases, "operationName": ""},
        "a null for a condition": {
            "query": "query($x:Boolean=true){__typename @include(if:$x) vehicles{nodes{id @skip(if:$x)}}}",
            "variables": {"x": None},
        },
        "a cursor that is not UTF-8": {"query": '{vehicles(after:"%s"){nodes{id}}}' % cursor},
    }


def bodies(vehicle_ids: list[str]) -> dict[str, Body]:
    """All of them by name."""
    return {
        **variables_that_do_not_fit(),
        **fields_times_nodes(vehicle_ids),
        **introspections(),
        **long_keys(),
        **many_errors(),
        **former_bugs(),
    }
