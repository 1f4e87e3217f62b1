# ruff: noqa: PLC0415, T201 - each client is imported in its own environment, and the result printed
"""What Python clients make of errors. Arguments: client (gql | ariadne), URL, token or "", query, schema, folder.

Prints the codes of the errors that reach their caller, and the data. Runs in an environment with gql and
ariadne-codegen, which need other versions of graphql-core than the gateway.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def ask_gql(url: str, headers: dict[str, str], query: str) -> tuple[object, list[dict]]:
    from gql import Client, gql
    from gql.transport.exceptions import TransportQueryError
    from gql.transport.httpx import HTTPXTransport

    client = Client(transport=HTTPXTransport(url=url, headers=headers))
    try:
        return client.execute(gql(query)), []
    except TransportQueryError as failed:
        return failed.data, failed.errors


def ask_ariadne(url: str, headers: dict[str, str], query: str, schema: str, folder: str) -> tuple[object, list[dict]]:
    made = Path(folder)
    (made / "queries.graphql").write_text(query)
    (made / "ariadne.toml").write_text(
        f'[tool.ariadne-codegen]\nschema_path = "{schema}"\nqueries_path = "queries.graphql"\nasync_client = false\n'
        'target_package_name = "made_client"\n'
    )
    command = [Path(sys.executable).with_name("ariadne-codegen"), "--config", "ariadne.toml"]
    subprocess.run(command, cwd=made, check=True, capture_output=True)
    sys.path.insert(0, folder)
    from made_client import Client
    from made_client.exceptions import GraphQLClientGraphQLMultiError, GraphQLClientHttpError

    try:
        return Client(url=url, headers=headers).asked().model_dump(), []
    except GraphQLClientGraphQLMultiError as failed:
        return failed.data, [{"extensions": error.extensions} for error in failed.errors]
    except GraphQLClientHttpError as failed:
        return None, failed.response.json()["errors"]


def main() -> None:
    client, url, token, query, *more = sys.argv[1:]
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data, errors = ask_gql(url, headers, query) if client == "gql" else ask_ariadne(url, headers, query, *more)
    print(json.dumps({"data": data, "codes": [error["extensions"]["code"] for error in errors]}))


main()
