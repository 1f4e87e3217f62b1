# ruff: noqa: PLC0415, T201 - each client is imported in its own environment, and the result printed
"""What Python clients make of errors. Arguments: client (gql | ariadne), URL, schema, folder, and queries as JSON.

The queries are lists of a query and its token, which may be "". Prints for each the codes of the errors that reach the
caller, and the data. Runs in an environment of its own, since each client needs another version of graphql-core.
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


def ask_ariadne(url: str, headers: dict[str, str], query: str) -> tuple[object, list[dict]]:
    from made_client import Client
    from made_client.exceptions import GraphQLClientGraphQLMultiError, GraphQLClientHttpError

    method = getattr(Client(url=url, headers=headers), query.split()[1])
    try:
        return method().model_dump(), []
    except GraphQLClientGraphQLMultiError as failed:
        return failed.data, [{"extensions": error.extensions} for error in failed.errors]
    except GraphQLClientHttpError as failed:
        return None, failed.response.json()["errors"]


def make_client(schema: str, folder: str, queries: list[str]) -> None:
    """Generates a client, each method of which has the name of a query."""
    made = Path(folder)
    (made / "queries.graphql").write_text("\n".join(dict.fromkeys(queries)))
    (made / "ariadne.toml").write_text(
        f'[tool.ariadne-codegen]\nschema_path = "{schema}"\nqueries_path = "queries.graphql"\nasync_client = false\n'
        'target_package_name = "made_client"\n'
    )
    command = [Path(sys.executable).with_name("ariadne-codegen"), "--config", "ariadne.toml"]
    subprocess.run(command, cwd=made, check=True, capture_output=True)
    sys.path.insert(0, folder)


def main() -> None:
    client, url, schema, folder, sent = sys.argv[1:]
    requests = json.loads(sent)
    if client == "ariadne":
        make_client(schema, folder, [query for query, _ in requests])
    answers = []
    for query, token in requests:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data, errors = (ask_gql if client == "gql" else ask_ariadne)(url, headers, query)
        answers.append({"data": data, "codes": [error["extensions"]["code"] for error in errors]})
    print(json.dumps(answers))


main()
