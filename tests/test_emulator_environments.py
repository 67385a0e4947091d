"""Environments: cold and warm, and every way in which an invocation can end."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from fanout.emulator import Emulator
from fanout.emulator.process import end_of
from tests.emulator_checks import (
    FUNCTION,
    ROOT,
    client_of,
    emulated,
    invoke,
    is_running,
    open_files,
    until_gone,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("awslambdaric") is None, reason="needs awslambdaric"
)


async def test_an_environment_is_used_again() -> None:
    async with emulated("about") as (emulator, client):
        first = (await invoke(client)).value
        second = (await invoke(client)).value
        assert (first["pid"], second["calls"]) == (second["pid"], 2)
        assert emulator.counts.cold_starts == 1


async def test_invocations_at_the_same_time_get_environments_of_their_own() -> None:
    async with emulated() as (emulator, client):
        got = await asyncio.gather(*(invoke(client, {"sleep": 0.3, "pid": 0}) for _ in range(3)))
        assert len({each.value for each in got}) == 3
        assert (emulator.counts.cold_starts, emulator.counts.environments) == (3, 3)


async def test_temporary_files_last_as_long_as_their_environment() -> None:
    async with emulated() as (_, client):
        event = {"sleep": 0.3, "temporary": 0}
        one, other = await asyncio.gather(*(invoke(client, event) for _ in range(2)))
        again = await invoke(client, {"temporary": 0})
    (first, files), (second, _), (third, more) = (got.value.split() for got in (one, other, again))
    assert first != second
    assert third in {first, second}
    assert (files, more) == ("1", "2")
    assert not any(map(os.path.exists, [first, second]))


async def test_the_one_used_last_is_used_first() -> None:
    async with emulated() as (_, client):
        await asyncio.gather(*(invoke(client, {"sleep": 0.3}) for _ in range(2)))
        slow = asyncio.create_task(invoke(client, {"sleep": 0.3, "pid": 0}))
        fast = await invoke(client, {"pid": 0})
        last = await slow
        assert last.value != fast.value
        assert (await invoke(client, {"pid": 0})).value == last.value


async def test_the_handler_sees_what_it_sees_on_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the caller")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of the caller")
    monkeypatch.setenv("SOMETHING", "of the caller")
    options: dict[str, Any] = {"memory_mb": 640, "timeout_s": 9, "environment": {"COLOUR": "red"}}
    async with emulated("about", region="eu-west-1", **options) as (_, client):
        got = await invoke(client)
        about, environ = got.value, got.value["environ"]
        assert about["request_id"] == got.response["ResponseMetadata"]["RequestId"]
        assert about["arn"] == f"arn:aws:lambda:eu-west-1:123456789012:function:{FUNCTION}"
        assert 8000 < about["remaining_ms"] <= 9000
        assert about["folder"] == str(ROOT)
        assert about["path"][0] == str(ROOT)
        assert about["open_files"] <= 1024
        assert "of the caller" not in environ.values()
        assert environ["AWS_LAMBDA_FUNCTION_NAME"] == FUNCTION
        assert environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "640"
        assert environ["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
        assert environ["AWS_LAMBDA_LOG_GROUP_NAME"] == f"/aws/lambda/{FUNCTION}"
        assert re.fullmatch(
            r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", environ["AWS_LAMBDA_LOG_STREAM_NAME"]
        )
        assert environ["AWS_LAMBDA_INITIALIZATION_TYPE"] == "on-demand"
        assert environ["AWS_REGION"] == "eu-west-1"
        assert environ["_HANDLER"] == "tests.emulator_handlers.about"
        assert environ["LAMBDA_TASK_ROOT"] == str(ROOT)
        assert environ["TZ"] == ":UTC"
        assert environ["COLOUR"] == "red"
        assert "Root=1-" in environ["_X_AMZN_TRACE_ID"]


async def test_modules_come_from_the_path_only(tmp_path: Path) -> None:
    (tmp_path / "shipped.py").write_text("def handler(event, context):\n    return 'shipped'\n")
    async with (
        Emulator(handler="shipped.handler", path=[tmp_path]) as emulator,
        client_of(emulator) as client,
    ):
        assert (await invoke(client)).value == "shipped"


# ---- how an invocation ends ----


async def test_what_the_handler_raises_is_told_by_the_runtime() -> None:
    async with emulated() as (emulator, client):
        got = await invoke(client, {"raise": "no good"})
        assert (got.status, got.error) == (200, "Unhandled")
        assert got.value["errorType"] == "ValueError"
        assert got.value["errorMessage"] == "no good"
        assert "emulator_handlers.py" in "".join(got.value["stackTrace"])
        assert "[ERROR] ValueError: no good" in got.log
        await invoke(client, {"raise": "again"})
        assert emulator.counts.cold_starts == 1  # it is still warm


@pytest.mark.parametrize(
    ("event", "how"),
    [
        ({"exit": 3}, "Runtime exited with error: exit status 3"),
        ({"exit": 0}, "Runtime exited without providing a reason"),
        ({"signal": "SIGKILL"}, "Runtime exited with error: signal: killed"),
        ({"signal": "SIGSEGV"}, "Runtime exited with error: signal: segmentation fault"),
        ({"signal": "SIGABRT"}, "Runtime exited with error: signal: aborted"),
    ],
)
async def test_a_crash_is_told_in_lambdas_words(event: dict[str, Any], how: str) -> None:
    async with emulated() as (emulator, client):
        got = await invoke(client, {"print": "last words", **event})
        request_id = got.response["ResponseMetadata"]["RequestId"]
        assert (got.status, got.error) == (200, "Unhandled")
        assert got.value == {
            "errorType": "Runtime.ExitError",
            "errorMessage": f"RequestId: {request_id} Error: {how}",
        }
        assert "last words" in got.log
        assert got.log.endswith("\tStatus: error\tError Type: Runtime.ExitError\n")
        assert (await invoke(client, {"json": 1})).value == "1"
        assert emulator.counts.cold_starts == 2


def test_signals_have_the_names_of_go() -> None:
    names = {
        signal.SIGALRM: "alarm clock",
        signal.SIGTERM: "terminated",
        signal.SIGBUS: "bus error",
    }
    for number, name in names.items():
        assert end_of(-number) == f"Runtime exited with error: signal: {name}"
    assert end_of(-40) == "Runtime exited with error: signal: signal 40"


async def test_a_timeout_kills_the_environment() -> None:
    async with emulated(timeout_s=2.0) as (emulator, client):
        pid = (await invoke(client, {"pid": 0})).value
        got = await invoke(client, {"print": "begun", "sleep": 60})
        request_id = got.response["ResponseMetadata"]["RequestId"]
        assert (got.status, got.error) == (200, "Unhandled")
        assert got.value == {
            "errorType": "Sandbox.Timedout",
            "errorMessage": f"RequestId: {request_id} Error: Task timed out after 2.00 seconds",
        }
        assert "begun\n" in got.log
        assert "Task timed out after 2.00 seconds" in got.log
        assert "\tDuration: 2000.00 ms\tBilled Duration: 2000 ms\t" in got.log
        assert got.log.endswith("\tStatus: timeout\n")
        await until_gone(pid)
        assert (await invoke(client, {"pid": 0})).value != pid
        assert emulator.counts.cold_starts == 2


async def test_an_answer_that_is_too_large_is_refused() -> None:
    async with emulated() as (emulator, client):
        most = 6_291_556 - 2
        assert len((await invoke(client, {"text": most})).payload) == most + 2
        got = await invoke(client, {"text": most + 1})
        assert (got.status, got.error) == (200, "Unhandled")
        assert got.value == {
            "errorType": "Function.ResponseSizeTooLarge",
            "errorMessage": (
                "Response payload size exceeded maximum allowed payload size (6291556 bytes)."
            ),
        }
        assert (await invoke(client, {"json": 1})).value == "1"
        assert emulator.counts.cold_starts == 2


async def test_an_answer_may_be_any_bytes() -> None:
    async with emulated() as (_, client):
        got = await invoke(client, {"bytes": 1024})
        assert got.payload == bytes(range(256)) * 4
        assert got.error is None


async def test_an_answer_that_is_no_json_is_the_runtimes_error() -> None:
    async with emulated() as (_, client):
        got = await invoke(client, {"unserialisable": 0})
        assert (got.error, got.value["errorType"]) == ("Unhandled", "Runtime.MarshalError")


# ---- how it starts ----


@pytest.mark.parametrize(
    ("handler", "source", "error_type", "text"),
    [
        ("broken.handler", "import no_such_module", "Runtime.ImportModuleError", "no_such_module"),
        ("broken.other", "handler = 1", "Runtime.HandlerNotFound", "'other' missing on module"),
        ("broken.handler", "1 +", "Runtime.UserCodeSyntaxError", "Syntax error in module"),
        ("broken.handler", "1 / 0", "ZeroDivisionError", "division by zero"),
        ("broken.handler", "import os; os._exit(4)", "Runtime.ExitError", "exit status 4"),
    ],
)
async def test_a_handler_that_cannot_be_imported_is_the_answer(
    tmp_path: Path, handler: str, source: str, error_type: str, text: str
) -> None:
    (tmp_path / "broken.py").write_text(f"print('starting', flush=True)\n{source}\n")
    async with (
        Emulator(handler=handler, path=[tmp_path]) as emulator,
        client_of(emulator) as client,
    ):
        for _ in range(2):
            got = await invoke(client)
            assert (got.status, got.error) == (200, "Unhandled")
            assert got.value["errorType"] == error_type
            assert text in got.value["errorMessage"]
        if error_type != "Runtime.UserCodeSyntaxError":
            assert "starting\n" in got.log
        assert (emulator.counts.cold_starts, emulator.counts.environments) == (2, 0)


async def test_an_init_that_takes_too_long_starts_anew_within_the_invocation(
    tmp_path: Path,
) -> None:
    """The second time, what is slow at first is fast: the invocation succeeds."""
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\nmark = pathlib.Path(__file__).with_name('mark')\n"
        "if not mark.exists():\n    mark.touch()\n    time.sleep(60)\n"
        "def handler(event, context):\n    return 'served'\n"
    )
    async with (
        Emulator(handler="slow.handler", path=[tmp_path], init_timeout_s=5.0) as emulator,
        client_of(emulator) as client,
    ):
        got = await invoke(client)
        assert (got.error, got.value) == (None, "served")
        first, *rest = got.log.splitlines()
        assert re.fullmatch(
            r"INIT_REPORT Init Duration: 5\d\d\d\.\d\d ms\tPhase: init\tStatus: timeout", first
        )
        assert "Init Duration" not in rest[-1]  # it is part of the duration
        assert emulator.counts.cold_starts == 1
        assert (await invoke(client)).value == "served"


async def test_an_init_that_never_ends_runs_into_the_timeout_of_the_function(
    tmp_path: Path,
) -> None:
    (tmp_path / "stuck.py").write_text("import time\ntime.sleep(60)\n")
    options: dict[str, Any] = {"init_timeout_s": 0.2, "timeout_s": 0.3}
    async with (
        Emulator(handler="stuck.handler", path=[tmp_path], **options) as emulator,
        client_of(emulator) as client,
    ):
        assert (await invoke(client)).value["errorType"] == "Sandbox.Timedout"


async def test_an_environment_that_ended_while_idle_is_replaced() -> None:
    async with emulated() as (emulator, client):
        pid = (await invoke(client, {"pid": 0})).value
        os.kill(pid, signal.SIGKILL)
        while emulator.counts.environments:
            await asyncio.sleep(0.01)
        got = await invoke(client, {"pid": 0})
        assert got.error is None
        assert got.value != pid
        assert emulator.counts.cold_starts == 2


async def test_an_invocation_that_never_reached_its_environment_gets_another_one() -> None:
    async with emulated() as (emulator, client):
        first = (await invoke(client, {"end_afterwards": 0.2})).value
        got = await invoke(client, {"pid": 0})
        assert got.error is None
        assert got.value != first
        assert emulator.counts.cold_starts == 2


async def test_an_environment_that_cannot_be_started_is_an_error_of_the_service(
    tmp_path: Path,
) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    async with emulated(python=str(python)) as (emulator, client):
        python.unlink()
        with pytest.raises(ClientError) as caught:
            await invoke(client)
        assert caught.value.response["Error"]["Code"] == "ServiceException"
        assert "an environment could not be started" in emulator.log[0]
        assert (emulator.counts.running, emulator.counts.environments) == (0, 0)


# ---- freezing ----


async def test_a_frozen_environment_does_nothing_between_invocations(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(
        "import threading, time\nticks = 0\n"
        "def count():\n    global ticks\n    while True:\n        time.sleep(0.01); ticks += 1\n"
        "threading.Thread(target=count, daemon=True).start()\n"
        "def handler(event, context):\n    return ticks\n"
    )
    async with (
        Emulator(handler="busy.handler", path=[tmp_path], freeze=True) as emulator,
        client_of(emulator) as client,
    ):
        first = (await invoke(client)).value
        await asyncio.sleep(0.6)
        assert (await invoke(client)).value - first < 30
        for _ in range(20):
            await invoke(client)
        assert emulator.counts.cold_starts == 1


# ---- the end ----


async def test_closing_leaves_no_process_no_file_and_no_task() -> None:
    async with emulated() as (_, client):
        await invoke(client)
    gc.collect()
    before, tasks = open_files(), len(asyncio.all_tasks())
    async with emulated() as (_, client):
        got = await asyncio.gather(*(invoke(client, {"sleep": 0.1, "pid": 0}) for _ in range(3)))
        child = (await invoke(client, {"child": 0})).value
        busy = asyncio.create_task(invoke(client, {"sleep": 60}))
        await asyncio.sleep(0.1)
        assert is_running(child)
    with pytest.raises(Exception, match=r"closed|connect|disconnect|endpoint"):
        await busy
    assert not any(is_running(each.value) for each in got)
    await until_gone(child)
    gc.collect()
    assert (open_files(), len(asyncio.all_tasks())) == (before, tasks)


async def test_what_a_handler_started_ends_with_its_environment() -> None:
    async with emulated(timeout_s=2.0) as (_, client):
        child = (await invoke(client, {"child": 0})).value
        assert is_running(child)
        assert (await invoke(client, {"sleep": 60})).error is not None
        await until_gone(child)
        assert not is_running(child)


_KILLED = """
import asyncio, json, sys
from fanout.emulator import Emulator
sys.path.insert(0, {root!r})
from tests.emulator_checks import client_of, invoke
async def main():
    handler = "tests.emulator_handlers.act"
    async with Emulator(handler=handler, path=[{root!r}], freeze={freeze}) as emulator:
        async with client_of(emulator) as client:
            pids = [(await invoke(client, {{"pid": 0}})).value]
            pids.append((await invoke(client, {{"child": 0}})).value)
            print(json.dumps(pids), flush=True)
            await invoke(client, {{"spin": 60}})
asyncio.run(main())
"""


def in_process(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


@pytest.mark.parametrize("freeze", [False, True])
async def test_environments_end_with_an_emulator_that_is_killed(freeze: bool) -> None:
    """Whatever they do: compiled code that holds the interpreter, or nothing, frozen."""
    code = _KILLED.format(root=str(ROOT), freeze=freeze)
    with in_process(code) as emulator:
        assert emulator.stdout is not None
        pids = json.loads(await asyncio.to_thread(emulator.stdout.readline))
        await asyncio.sleep(0.1)
        assert all(is_running(pid) for pid in pids)
        emulator.kill()
    for pid in pids:
        await until_gone(pid)


async def test_an_invocation_goes_on_when_its_client_has_gone(tmp_path: Path) -> None:
    file = tmp_path / "done"
    async with emulated() as (emulator, client):
        call = asyncio.create_task(invoke(client, {"sleep": 0.3, "append": str(file)}))
        while emulator.counts.running == 0:
            await asyncio.sleep(0.01)
        call.cancel()
        assert not file.exists()
        while not file.exists():
            await asyncio.sleep(0.01)
        assert file.read_text()


async def test_the_growth_of_environments_is_limited() -> None:
    async with emulated(burst=2, new_environments_per_s=0.001) as (emulator, client):
        calls = (invoke(client, {"sleep": 0.3}) for _ in range(3))
        got = await asyncio.gather(*calls, return_exceptions=True)
        (refused,) = [found for found in got if isinstance(found, ClientError)]
        assert refused.response["Reason"] == ("FunctionInvocationRateLimitExceeded")
        assert int(refused.response["retryAfterSeconds"]) > 100
        assert (await invoke(client)).error is None  # warm ones serve on
        assert emulator.counts.cold_starts == 2


async def test_the_end_of_a_process_is_noticed_on_other_systems_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the kernel tells of it by no file, a thread waits."""
    monkeypatch.delattr(os, "pidfd_open")
    async with emulated() as (emulator, client):
        for _ in range(2):
            got = await invoke(client, {"print": "last words", "exit": 3})
            assert got.value["errorMessage"].endswith("exit status 3")
            assert "last words" in got.log
        assert emulator.counts.cold_starts == 2
        await invoke(client)


def test_as_many_files_may_be_open_as_the_environments_need() -> None:
    code = (
        f"import asyncio, resource, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from fanout.emulator import Emulator\n"
        "kind = resource.RLIMIT_NOFILE\n"
        "resource.setrlimit(kind, (64, resource.getrlimit(kind)[1]))\n"
        "async def main():\n"
        "    async with Emulator(concurrency=40):\n"
        "        print(resource.getrlimit(kind)[0])\n"
        "asyncio.run(main())\n"
    )
    with in_process(code) as emulator:
        assert emulator.stdout is not None
        assert int(emulator.stdout.read()) >= 40 * 7
