"""An AWS Lambda on this machine: to try fanout without an account, and to test against.

    async with Emulator(handler="mymodule.handler", path=["src"]) as emulator:
        os.environ.update(emulator.variables)
        async with aioboto3.Session().client("lambda") as client:
            await client.invoke(FunctionName="fanout-worker", Payload=b"{}")

Behind Lambda's own API each execution environment is a process that runs AWS's runtime client
(`awslambdaric`) over the Runtime API: cold and warm starts, timeouts, crashes, memory limits, size
limits, throttles, temporary files and logs are as on Lambda, and `Faults` adds what goes wrong now
and then. Needs `pip install 'fanout-lambda[emulator]'`; neither Docker nor an account.

What it does not emulate: CPU shares (memory doesn't change the speed), a file system of its own
(but TMPDIR, a folder per environment), IAM, more than one function, response streaming.
"""

from fanout.emulator.faults import Faults
from fanout.emulator.limits import Reason
from fanout.emulator.service import Emulator
from fanout.emulator.tally import Counts

__all__ = ["Counts", "Emulator", "Faults", "Reason"]
