"""CPU time of a document before its execution: `uv run python benchmarks/hostile_documents.py`.

Milliseconds of this thread for parsing, limits and validation, by shape of document; each is as large as the default
limits allow, or exceeds them. The least of five.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway.engine.document_limits import LimitExceeded
from gateway.engine.documents import Documents
from gateway.schema.build import build_schema
from gateway.settings import Settings
from gateway.web.operations import document_limits_of


def vehicles(selections: str, fragments: str = "") -> str:
    return f"{{ vehicles {{ nodes {{ {selections} }} }} }} {fragments}"


def chain(name: str, length: int) -> str:
    links = "".join(f"fragment {name}{n} on Vehicle {{ ...{name}{n + 1} }} " for n in range(length))
    return f"{links}fragment {name}{length} on Vehicle {{ id }} "


def fragments_of(number: int, selections: str) -> str:
    spreads = " ".join(f"...f{n}" for n in range(number))
    return vehicles(spreads, " ".join(f"fragment f{n} on Vehicle {{ {selections} }}" for n in range(number)))


def each_in_each(number: int) -> str:
    def spreads(first: int) -> str:
        return " ".join(f"...f{n}" for n in range(first, number))

    fragments = (f"fragment f{n} on Vehicle {{ id masterData {{ brand }} {spreads(n + 1)} }}" for n in range(number))
    return vehicles("...f0", " ".join(fragments))


# By a size that grows until a limit is reached.
SHAPES = {
    "a field repeated": lambda n: vehicles("id " * n),
    "with a selection": lambda n: vehicles("masterData { brand } " * n),
    "with a wide selection": lambda n: vehicles("masterData { vin brand model remark fuelType } " * n),
    "repeated within repeated": lambda n: vehicles(("masterData {" + "brand " * n + "} ") * n),
    "repeated within few": lambda n: vehicles(("masterData {" + "brand " * n + "} ") * 3),
    "few within repeated": lambda n: vehicles("masterData { brand brand brand } " * n),
    "below each other": lambda n: vehicles(("telematicsUnit { vehicle {" + "id " * n + "} } ") * n),
    "inline fragments": lambda n: vehicles("... { ... on Vehicle { id } } " * n),
    "fragments of a field": lambda n: fragments_of(n, "id"),
    "fragments of selections": lambda n: fragments_of(n, "masterData { brand model }"),
    "a fragment spread again": lambda n: vehicles("...f " * n, "fragment f on Vehicle { id }"),
    "fragments in each other": each_in_each,
    "two chains": lambda n: vehicles("...a0 ...b0", chain("a", n) + chain("b", n)),
    "operations": lambda n: " ".join(f"query q{m} {{ __typename }}" for m in range(n)),
    "operations of one chain": lambda n: (
        " ".join(f"query q{m} {{ vehicles {{ nodes {{ ...a0 }} }} }}" for m in range(n)) + chain("a", n)
    ),
    "variables": lambda n: (
        f"query q({' '.join(f'$v{m}: ID!' for m in range(n))}) {{ nodes(ids: [{' '.join(f'$v{m}' for m in range(n))}]) {{ id }} }}"
    ),
    "values": lambda n: f"{{ nodes(ids: [{' '.join(f'{m}' for m in range(n))}]) {{ id }} }}",
    "misspelt fields": lambda n: vehicles(" ".join(f"vehicleMasterDat{m}" for m in range(n))),
    "misspelt types": lambda n: vehicles(" ".join(f"... on Vehicl{m} {{ id }}" for m in range(n))),
    "fragments unused": lambda n: (
        "{ __typename } " + " ".join(f"fragment f{m} on Vehicle {{ id }}" for m in range(n))
    ),
}  # fmt: skip


def main() -> None:
    settings = Settings().limits
    core = build_schema().core
    limits = document_limits_of(settings)

    def cost(text: str) -> tuple[float, str]:
        documents = Documents(core, limits=limits)
        began = time.thread_time()
        document = documents.read(text)
        spent = time.thread_time() - began
        exceeded = next((error for error in document.errors if isinstance(error, LimitExceeded)), None)
        return spent * 1000, str(exceeded.extensions["limit"]) if exceeded and exceeded.extensions else ""

    def sizes() -> Iterator[int]:
        size = 1.0
        for _ in count():
            yield round(size)
            size = max(size + 1, size * 1.05)

    print(f"{'document':28} {'largest allowed':>16} {'rejected beyond':>24}")
    for name, shape in SHAPES.items():
        allowed = 0
        for size in sizes():
            limit = cost(shape(size))[1]
            if limit:
                break
            allowed = size
        within, beyond = (min(cost(shape(number))[0] for _ in range(5)) for number in (allowed, 10 * allowed))
        print(f"{name:28} {allowed:5} {within:7.1f} ms {limit:>13} {beyond:7.1f} ms")


if __name__ == "__main__":
    main()
