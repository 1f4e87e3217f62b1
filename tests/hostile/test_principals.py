"""Callers whose verified tokens differ in any relevant claim: none gets another's response."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws

from gateway.app import create_app
from gateway.identity import principal_of
from gateway.settings import Settings
from gateway.simulator import Behaviours, Simulator
from gateway.web.authentication import canonical
from tests.gateways import PLANS, serving
from tests.issuer import ISSUER, FakeIssuer

QUERY = "{ vehicles(first: 3) { nodes { vehicleModelId } } }"
# Claims of two callers, as in their tokens.
APART = [
    ('"fleet_id":1', '"fleet_id":2'),
    ('"fleet_id":1', '"fleet_id":"1"'),
    ('"fleet_id":1', '"fleet_id":1.0'),
    ('"fleet_id":1', '"fleet_id":true'),
    ('"fleet_id":["a","bc"]', '"fleet_id":["ab","c"]'),
    ('"fleet_id":null', '"fleet_id":""'),
    ('"fleet_id":null', '"x":null'),
    ('"fleet_id":"null"', '"fleet_id":null'),
    ('"fleet_id":12345678901234567890', '"fleet_id":12345678901234567891'),
    ('"fleet_id":1e400', '"fleet_id":1e401'),
    ('"fleet_id":0.1', '"fleet_id":0.10000000000000000001'),
    ('"roles":["reader"]', '"roles":["reader","admin"]'),
    ('"roles":["a","b"]', '"roles":[["a"],"b"]'),
    ('"roles":["a,b"]', '"roles":["a","b"]'),
    ('"tid":"one"', '"tid":"two"'),
    ('"aud":"fleet"', '"aud":["fleet"]'),
    ('"aud":["fleet","a"]', '"aud":["fleet","b"]'),
    ('"scope":"a","scp":"b"', '"scope":"a","scp":"c"'),
    ('"scope":"a b"', '"scope":"a\\u00a0b"'),
    ('"scope":"a b"', '"scope":"a"'),
    ('"scope":["a b"]', '"scope":["a","b"]'),
    ('"scope":"1.5"', '"scp":"1.5"'),
    ('"client_id":"a","azp":"b"', '"client_id":"a\\u0001b"'),
    ('"client_id":"a","azp":"b"', '"client_id":"b","azp":"a"'),
    ('"org":{"a":{"b":1},"c":2}', '"org":{"a":{"b":1,"c":2}}'),
    ('"org":{"a":"1","b":"2"}', '"org":{"a":"1\\",\\"b\\":\\"2"}'),
    ('"name":"\\u00e9"', '"name":"e\\u0301"'),
    ('"name":"\\ud800"', '"name":"\\ud801"'),
    ('"name":"a\\u0000b"', '"name":"a"'),
    ('"azp":""', '"x":""'),
]
TOGETHER = [
    ('"jti":"a"', '"jti":"b"'),
    ('"iat":1', '"iat":2'),
    ('"nbf":1', '"nbf":2,"auth_time":3'),
    ('"scope":"a b"', '"scope":"b a"'),
    ('"scp":["a","b"]', '"scp":["b","a"]'),
    ('"org":{"a":1,"b":2}', '"org":{"b":2,"a":1}'),
    ('"name":"\\u00e9"', '"name":"é"'),
]


class World:
    """A gateway over sockets that verifies tokens; each vehicle names the client that it was read for."""

    def __init__(self, serve, **oidc: str) -> None:
        self.simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0, stamp_callers=True))
        self.issuer = FakeIssuer()
        self.subject = ""
        settings = Settings(
            log={"level": "warning"},
            upstream={"url": serve(self.simulator.app)},
            oidc={"issuer": ISSUER, "audience": "fleet", "jwks_uri": serve(self.issuer.app()) + "/keys", **oidc},
        )
        self.http = httpx.Client(base_url=serve(create_app(settings)), verify=False)

    def read_for(self, client: str, claims: str) -> str:
        """The client whose data a token with these claims gets; the fleet API takes the token for that client."""
        sound = json.dumps({"iss": ISSUER, "sub": self.subject, "aud": "fleet", "exp": int(time.time()) + 900})
        payload = f"{sound[:-1]},{claims}}}".encode()
        token = jws.serialize_compact({"alg": "RS256", "kid": "one"}, payload, self.issuer.key)
        self.simulator.accept(token, f"T7K2M#{client}")
        answer = self.http.post("/graphql", json={"query": QUERY}, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]["vehicles"]["nodes"][0]["vehicleModelId"]

    def both(self, one: str, other: str) -> tuple[str, str]:
        """The clients whose data two tokens of one subject get, one after the other."""
        self.subject = f"user-{time.time_ns()}"
        return self.read_for("alice", one), self.read_for("bob", other)


@pytest.fixture(scope="module")
def world():
    with ExitStack() as stack:
        world = World(lambda app: stack.enter_context(serving(app)))
        with world.http:
            yield world


@pytest.mark.parametrize(("one", "other"), APART)
def test_tokens_that_differ_in_a_claim_share_nothing(world, one, other):
    """For any claim name and type, each caller gets the data that was read for it."""
    first, second = world.both(one, other)
    assert first != second


@pytest.mark.parametrize(("one", "other"), TOGETHER)
def test_a_new_token_of_the_same_caller_hits_the_cache(world, one, other):
    """Times, the token's id, and the order of members and of scopes do not change the principal."""
    first, second = world.both(one, other)
    assert first == second


def test_a_setting_may_name_the_claims_of_the_principal(serve):
    """All named claims count; others do not, unless a token lacks a named one."""
    world = World(serve, principal_claims="sub, fleet_id")
    for one, other, shared in (
        ('"fleet_id":1,"roles":["a"]', '"fleet_id":1,"roles":["b"]', True),
        ('"fleet_id":1', '"fleet_id":2', False),
        ('"roles":["a"]', '"roles":["b"]', False),  # neither has a fleet_id
        ('"fleet_id":null,"roles":["a"]', '"roles":["a"]', False),
    ):
        first, second = world.both(one, other)
        assert (first == second) is shared, (one, other)
    first = world.read_for("alice", '"fleet_id":1')
    world.subject += "-other"
    assert world.read_for("bob", '"fleet_id":1') != first
    world.http.close()


def test_parts_of_a_principal_can_not_be_confused():
    """No two lists of parts give one principal, whatever text is in the parts."""
    lists = [
        ("a", "bc"), ("ab", "c"), ("abc",), ("a", "b", "c"), ("a\0b", "c"), ("a", "b\0c"), ("a\0b\0c",), ("", "abc"),
        ("abc", ""), (), ("",), ("", ""), ("1:a",), ("a", "1:b"), ("é",), ("e\u0301",),
    ]  # fmt: skip
    assert len({principal_of(*parts) for parts in lists}) == len(lists)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_claims_have_one_form_for_each_value(one, other):
    """The form is JSON of the value, so equal forms are equal values; the order of members does not matter."""
    assert json.loads(canonical(one)) == one
    assert (canonical(one) == canonical(other)) == (repr(in_order(one)) == repr(in_order(other)))


def in_order(value: object) -> object:
    if isinstance(value, dict):
        return {name: in_order(value[name]) for name in sorted(value)}
    return [in_order(each) for each in value] if isinstance(value, list) else value
