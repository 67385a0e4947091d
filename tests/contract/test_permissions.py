"""The rights that the documents name are what a map needs: those, and none less."""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

import fanout
from fanout import stores
from tests.contract import kernels, stands

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

MB: Final = 2**20
_DOCS: Final = stands.ROOT / "docs"
_ACCOUNT: Final = "000000000000"
# An account's number is a key of ministack's for its root.
_ROOT_KEYS: Final = (_ACCOUNT, "any")
_ACTIONS: Final = (
    "lambda:GetAccountSettings",
    "lambda:GetFunctionConcurrency",
    "lambda:GetFunctionConfiguration",
    "lambda:InvokeFunction",
)


_PLACES: Final = {
    "iam-policy.json": {
        "REGION": stands.REGION,
        "ACCOUNT": _ACCOUNT,
        "FUNCTION": stands.FUNCTION,
    },
    "iam-policy-store.json": {"BUCKET": "store", "PREFIX": "some/where"},
    "iam-policy-worker.json": {"BUCKET": "store", "PREFIX": "some/where"},
    "s3-lifecycle.json": {"PREFIX": "some/where"},
}


def documented(name: str = "iam-policy.json") -> dict[str, Any]:
    """A document as a reader would have it, the placeholders replaced."""
    text = (_DOCS / name).read_text(encoding="utf-8")
    for placeholder, value in _PLACES[name].items():
        assert placeholder in text
        text = text.replace(placeholder, value)
    policy: dict[str, Any] = json.loads(text)
    return policy


def actions_of(statement: dict[str, Any]) -> list[str]:
    found = statement["Action"]
    return [found] if isinstance(found, str) else list(found)


def documented_without(action: str, name: str = "iam-policy.json") -> dict[str, Any]:
    """A policy less one action."""
    policy = documented(name)
    kept = (
        statement | {"Action": [one for one in actions_of(statement) if one != action]}
        for statement in policy["Statement"]
    )
    return policy | {"Statement": [statement for statement in kept if statement["Action"]]}


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory, _nobodys_settings: None) -> Iterator[str]:
    """The URL of an AWS that checks signatures and rights; the function is deployed."""
    folder: Path = tmp_path_factory.mktemp("account")
    with stands.ministack_server(folder, checks_rights=True) as url:
        iam = stands.client("iam", url, _ROOT_KEYS)
        trust = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "lambda.amazonaws.com"},
                    "Action": "sts:AssumeRole",
                }
            ],
        }
        role = iam.create_role(RoleName="worker", AssumeRolePolicyDocument=json.dumps(trust))
        iam.put_role_policy(
            RoleName="worker",
            PolicyName="fanout",
            PolicyDocument=json.dumps(documented("iam-policy-worker.json")),
        )
        stands.client("s3", url, _ROOT_KEYS).create_bucket(Bucket="store")
        functions = stands.client("lambda", url, _ROOT_KEYS)
        for name in (stands.FUNCTION, "another"):
            deploy = {"handler": "fanout.handler.handle", "role": role["Role"]["Arn"]}
            stands.deploy(functions, name, **deploy)
        yield url


def keys_of(account: str, *policies: dict[str, Any]) -> tuple[str, str]:
    """The keys of a user who has these policies, and nothing else."""
    user = f"user-{uuid.uuid4().hex}"
    iam = stands.client("iam", account, _ROOT_KEYS)
    iam.create_user(UserName=user)
    for number, policy in enumerate(policies):
        document = json.dumps(policy)
        iam.put_user_policy(UserName=user, PolicyName=f"fanout-{number}", PolicyDocument=document)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


@pytest.fixture
def backend(account: str) -> Callable[..., fanout.Lambda]:
    """A backend with the keys of a user who has this policy, and nothing else."""

    def with_policy(policy: dict[str, Any], function: str = stands.FUNCTION) -> fanout.Lambda:
        return stands.lambda_at(account, keys_of(account, policy), function, concurrency=1)

    return with_policy


def test_the_policy_names_these_actions_and_no_others() -> None:
    statements = documented()["Statement"]
    named = [action for statement in statements for action in actions_of(statement)]
    assert sorted(named) == list(_ACTIONS)
    assert all(statement["Effect"] == "Allow" for statement in statements)
    everywhere = [one for s in statements if s["Resource"] == "*" for one in actions_of(s)]
    assert everywhere == ["lambda:GetAccountSettings"]  # AWS gives it no narrower resource


async def test_the_documented_policy_is_enough_for_a_map(
    backend: Callable[..., fanout.Lambda],
) -> None:
    async with fanout.Executor(backend(documented())) as ex:
        assert await ex.map(kernels.square, range(5)) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("action", _ACTIONS)
async def test_without_one_of_its_actions_the_error_names_it(
    action: str, backend: Callable[..., fanout.Lambda]
) -> None:
    with pytest.raises(fanout.errors.BackendError, match=action):
        async with fanout.Executor(backend(documented_without(action))) as ex:
            await ex.map(kernels.square, range(5))


async def test_the_documented_policy_allows_no_other_function(
    backend: Callable[..., fanout.Lambda],
) -> None:
    policy = documented()
    with pytest.raises(fanout.errors.BackendError, match="lack the right lambda:"):
        async with fanout.Executor(backend(policy, "another")) as ex:
            await ex.map(kernels.square, range(5))


def arrays_beyond_the_limits() -> list[Any]:
    return [np.random.default_rng(seed).random(MB) for seed in range(2)]


@contextlib.asynccontextmanager
async def executor(account: str, rights: dict[str, Any]) -> AsyncIterator[fanout.Executor]:
    """With a bucket, and these rights to it."""
    keys = keys_of(account, documented(), rights)
    store = stores.S3Store(
        "store", "some/where", session=stands.session_of(keys), endpoint_url=account
    )
    async with fanout.Executor(
        stands.lambda_at(account, keys, concurrency=1), store=store
    ) as running:
        yield running


def keys_in_bucket(account: str) -> list[str]:
    found = stands.client("s3", account, _ROOT_KEYS).list_objects_v2(Bucket="store")
    return [one["Key"] for one in found.get("Contents", ())]


async def test_the_documented_policies_are_enough_for_large_data(account: str) -> None:
    async with executor(account, documented("iam-policy-store.json")) as ex:
        data = await ex.put(np.random.default_rng(9).random(5 * MB))  # in parts
        arrays = arrays_beyond_the_limits()
        assert all(map(np.array_equal, arrays, await ex.map(kernels.same, arrays)))
        total = np.random.default_rng(9).random(5 * MB).sum()
        assert await ex.map(kernels.total, [data]) == [total]
    assert {key.rpartition("/")[0] for key in keys_in_bucket(account)} == {"some/where/objects"}


@pytest.mark.parametrize("action", ["s3:PutObject", "s3:GetObject"])
async def test_without_a_right_to_the_bucket_the_error_names_it(account: str, action: str) -> None:
    rights = documented_without(action, "iam-policy-store.json")
    async with executor(account, rights) as ex:
        run = await ex.run(kernels.same, [1, *arrays_beyond_the_limits()])
    assert run.outcomes[0].value == 1
    for outcome in run.outcomes[1:]:
        with pytest.raises(fanout.errors.StoreError, match=action):
            raise outcome.error or AssertionError


@pytest.mark.parametrize("action", ["s3:DeleteObject", "s3:ListBucket"])
async def test_without_a_right_to_tidy_up_the_results_are_there_all_the_same(
    account: str, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    rights = documented_without(action, "iam-policy-store.json")
    async with executor(account, rights) as ex:
        arrays = arrays_beyond_the_limits()
        assert all(map(np.array_equal, arrays, await ex.map(kernels.same, arrays)))
    assert action in caplog.text


@pytest.mark.parametrize("action", ["s3:PutObject", "s3:GetObject"])
async def test_without_a_right_of_the_worker_the_error_names_it(account: str, action: str) -> None:
    iam = stands.client("iam", account, _ROOT_KEYS)
    role = {"RoleName": "worker", "PolicyName": "fanout"}
    rights = documented_without(action, "iam-policy-worker.json")
    iam.put_role_policy(**role, PolicyDocument=json.dumps(rights))
    try:
        async with executor(account, documented("iam-policy-store.json")) as ex:
            run = await ex.run(kernels.same, [1, *arrays_beyond_the_limits()])
    finally:
        rights = documented("iam-policy-worker.json")
        iam.put_role_policy(**role, PolicyDocument=json.dumps(rights))
    assert run.outcomes[0].value == 1
    for outcome in run.outcomes[1:]:
        with pytest.raises(fanout.errors.StoreError, match=f"worker's role {action}"):
            raise outcome.error or AssertionError


def test_the_lifecycle_rule_is_one_that_s3_takes(account: str) -> None:
    s3 = stands.client("s3", account, _ROOT_KEYS)
    rules = documented("s3-lifecycle.json")
    s3.put_bucket_lifecycle_configuration(Bucket="store", LifecycleConfiguration=rules)
    taken = s3.get_bucket_lifecycle_configuration(Bucket="store")["Rules"]
    prefixes = [rule["Filter"]["Prefix"] for rule in taken]
    assert prefixes == ["some/where/runs/", "some/where/results/", "some/where/"]
