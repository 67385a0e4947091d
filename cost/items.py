"""What a price book has a price of, besides EC2 instances: the names of its items.

    lambda.gb_s.x86_64            the time that functions run, in tiers across a month
    nat.hour                      a NAT gateway, for each hour that it exists

Pure. A name is the service, what is paid for with its unit at the end, and the architecture where
prices differ by it. The file of a region (`prices/`) and the user's own name their prices so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

ARCHITECTURES: Final = ("x86_64", "arm64")

# Regions that any account in the commercial partition may use (botocore 1.40, endpoints).
AWS_REGIONS: Final = (
    *("af-south-1", "ap-east-1", "ap-east-2", "ap-northeast-1", "ap-northeast-2", "ap-northeast-3"),
    *("ap-south-1", "ap-south-2", "ap-southeast-1", "ap-southeast-2", "ap-southeast-3"),
    *("ap-southeast-4", "ap-southeast-5", "ap-southeast-6", "ap-southeast-7"),
    *("ca-central-1", "ca-west-1", "eu-central-1", "eu-central-2", "eu-north-1", "eu-south-1"),
    *("eu-south-2", "eu-west-1", "eu-west-2", "eu-west-3", "il-central-1", "me-central-1"),
    *("me-south-1", "mx-central-1", "sa-east-1"),
    *("us-east-1", "us-east-2", "us-west-1", "us-west-2"),
)

# What AWS gives away in each month, to every account and for good, both architectures together
# (aws.amazon.com/lambda/pricing, 2026-10). Off unless a user asks for it.
FREE_LAMBDA_REQUESTS: Final = 1_000_000
FREE_LAMBDA_GB_S: Final = 400_000


@dataclass(frozen=True, slots=True)
class Item:
    """What is paid for.

    Attributes:
        unit: What the price is for one of.
        offer: The file of AWS's price list that has it.
        what: In words.
    """

    unit: str
    offer: str
    what: str


_OF_EACH_ARCHITECTURE: Final = {
    "lambda.gb_s": Item("GB-second", "AWSLambda", "duration of functions"),
    "lambda.request": Item("request", "AWSLambda", "invocations"),
    "lambda.provisioned_gb_s": Item(
        "GB-second", "AWSLambda", "provisioned concurrency, for as long as it is set up"
    ),
    "lambda.on_provisioned_gb_s": Item(
        "GB-second", "AWSLambda", "duration of functions on provisioned concurrency"
    ),
    "fargate.vcpu_hour": Item("vCPU-hour", "AmazonECS", "processors of Fargate tasks, Linux"),
    "fargate.gb_hour": Item("GB-hour", "AmazonECS", "memory of Fargate tasks, Linux"),
}


def _of_each(service: str) -> dict[str, Item]:
    return {
        f"{name}.{arch}": Item(item.unit, item.offer, f"{item.what}, {arch}")
        for name, item in _OF_EACH_ARCHITECTURE.items()
        for arch in ARCHITECTURES
        if name.startswith(f"{service}.")
    }


ITEMS: Final[Mapping[str, Item]] = {
    **_of_each("lambda"),
    "lambda.ephemeral_gb_s": Item("GB-second", "AWSLambda", "disk of functions above 512 MB"),
    "lambda.streamed_gb": Item("GB", "AWSLambda", "streamed responses above 6 MB each"),
    **_of_each("fargate"),
    "fargate.ephemeral_gb_hour": Item("GB-hour", "AmazonECS", "disk of Fargate tasks above 20 GB"),
    "s3.put": Item("request", "AmazonS3", "PUT, COPY, POST; Standard"),
    "s3.list": Item("request", "AmazonS3", "LIST; priced as PUT"),
    "s3.get": Item("request", "AmazonS3", "GET and all other reads; Standard"),
    "s3.storage_gb_month": Item("GB-month", "AmazonS3", "storage; Standard"),
    "logs.ingested_gb": Item("GB", "AmazonCloudWatch", "CloudWatch Logs, ingestion"),
    "logs.stored_gb_month": Item("GB-month", "AmazonCloudWatch", "CloudWatch Logs, storage"),
    "transfer.internet_gb": Item("GB", "AWSDataTransfer", "out to the internet"),
    "transfer.regional_gb": Item(
        "GB", "AWSDataTransfer", "between zones of the region, in each direction"
    ),
    "nat.gb": Item("GB", "AmazonEC2", "through a NAT gateway"),
    "nat.hour": Item("hour", "AmazonEC2", "a NAT gateway"),
    "valkey.gb_hour": Item("GB-hour", "AmazonElastiCache", "ElastiCache Serverless for Valkey"),
    "valkey.million_ecpu": Item(
        "million ECPU", "AmazonElastiCache", "requests to ElastiCache Serverless for Valkey"
    ),
}

# The file of the price list that has the instances, and the name of the price that each has.
EC2_OFFER: Final = "AmazonEC2"
EC2_UNIT: Final = "hour"


def service_of(item: str) -> str:
    """The part of a name that tells the service: "lambda" of "lambda.gb_s.x86_64"."""
    return item.partition(".")[0]
