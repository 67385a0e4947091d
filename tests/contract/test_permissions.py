"""The rights in `docs/iam-policy.json` are what a map needs: those, and none less."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest

import fanout
from tests.contract import kernels, stands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_DOCUMENTED: Final = stands.ROOT / "docs" / "iam-policy.json"
_ACCOUNT: Final = "000000000000"
# An account's number is a key of ministack's for its root.
_ROOT_KEYS: Final = (_ACCOUNT, "any")
_ACTIONS: Final = (
    "lambda:GetAccountSettings",
    "lambda:GetFunctionConcurrency",
    "lambda:GetFunctionConfiguration",
    "lambda:InvokeFunction",
)


def documented() -> dict[str, Any]:
    """The policy as a reader would have it, the placeholders replaced."""
    text = _DOCUMENTED.read_text(encoding="utf-8")
    for placeholder, value in (
        ("REGION", stands.REGION),
        ("ACCOUNT", _ACCOUNT),
        ("FUNCTION", stands.FUNCTION),
    ):
        assert placeholder in text
        text = text.replace(placeholder, value)
    policy: dict[str, Any] = json.loads(text)
    return policy


def actions_of(statement: dict[str, Any]) -> list[str]:
    found = statement["Action"]
    return [found] if isinstance(found, str) else list(found)


def documented_without(action: str) -> dict[str, Any]:
    """The policy less one action."""
    policy = documented()
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
        functions = stands.client("lambda", url, _ROOT_KEYS)
        for name in (stands.FUNCTION, "another"):
            deploy = {"handler": "fanout.handler.handle", "role": role["Role"]["Arn"]}
            stands.deploy(functions, name, **deploy)
        yield url


@pytest.fixture
def backend(account: str) -> Callable[..., fanout.Lambda]:
    """A backend with the keys of a user who has this policy, and nothing else."""
    user = f"user-{uuid.uuid4().hex}"

    def with_policy(policy: dict[str, Any], function: str = stands.FUNCTION) -> fanout.Lambda:
        iam = stands.client("iam", account, _ROOT_KEYS)
        iam.create_user(UserName=user)
        iam.put_user_policy(UserName=user, PolicyName="fanout", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=user)["AccessKey"]
        keys = (key["AccessKeyId"], key["SecretAccessKey"])
        return stands.lambda_at(account, keys, function, concurrency=1)

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
