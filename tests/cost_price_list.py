"""What the tests of prices share: offer files of AWS's layout, and a server that has them.

The products are shaped as AWS's are, with all that lies beside what is wanted: free tiers of all
regions, Lambda@Edge, MicroVMs, Windows, licences, dedicated and unused capacity, reservations.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator
    from pathlib import Path

REGION = "us-east-1"
PUBLISHED = "2026-11-15"
INF = "Inf"
# Attributes by their name in JSON, and the heading of their column in CSV.
COLUMNS = {
    "servicecode": "serviceCode",
    "location": "Location",
    "locationType": "Location Type",
    "fromLocationType": "From Location Type",
    "group": "Group",
    "instanceType": "Instance Type",
    "vcpu": "vCPU",
    "physicalProcessor": "Physical Processor",
    "clockSpeed": "Clock Speed",
    "memory": "Memory",
    "networkPerformance": "Network Performance",
    "gpu": "GPU",
    "tenancy": "Tenancy",
    "operatingSystem": "Operating System",
    "licenseModel": "License Model",
    "usagetype": "usageType",
    "operation": "operation",
    "capacitystatus": "CapacityStatus",
    "preInstalledSw": "Pre Installed S/W",
    "regionCode": "Region Code",
}
_HEAD = ("SKU", "OfferTermCode", "RateCode", "TermType", "PriceDescription", "EffectiveDate")
_RATE = ("StartingRange", "EndingRange", "Unit", "PricePerUnit", "Currency", "Product Family")


@dataclass
class Product:
    """A product of the price list with its on-demand tiers: (from, to, price)."""

    sku: str
    attributes: dict[str, str]
    unit: str
    tiers: list[tuple[str, str, str]]
    family: str = "Serverless"
    currency: str = "USD"
    term: str = "OnDemand"

    def rate_code(self, tier: int) -> str:
        """As AWS's are: nothing tells which tier it is."""
        shuffled = ("CUKFZ388N3", "6NBUNBXSC3", "6YS6EN2CT7")
        return f"{self.sku}.JRTCKXETXF.{shuffled[tier % 3]}{tier // 3 or ''}"


def flat(usd: str) -> list[tuple[str, str, str]]:
    return [("0", INF, usd)]


def as_csv(products: Iterable[Product], published: str = PUBLISHED, metadata: int = 5) -> str:
    """An offer file as CSV; all is quoted, as in AWS's."""
    file = io.StringIO()
    out = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
    lines = [
        ("FormatVersion", "v1.0"),
        ("Disclaimer", "This pricing list is for informational purposes only. All prices, …"),
        ("Publication Date", f"{published}T18:21:30Z"),
        ("Version", f"{published.replace('-', '')}182130"),
        ("OfferCode", "AmazonOffer"),
        *(("More", str(number)) for number in range(metadata - 5)),
    ]
    out.writerows(lines[:metadata])
    out.writerow((*_HEAD, *_RATE, *COLUMNS.values()))
    for product in products:
        for tier, (start, end, usd) in enumerate(product.tiers):
            out.writerow(
                (
                    *(product.sku, "JRTCKXETXF", product.rate_code(tier), product.term),
                    *("a description", "2026-11-01", start, end, product.unit, usd),
                    *(product.currency, product.family),
                    *(product.attributes.get(name, "") for name in COLUMNS),
                )
            )
    return file.getvalue()


def item_of(product: Product, published: str = PUBLISHED) -> dict[str, Any]:
    """A product with its terms, as the query API gives it."""
    dimensions = {
        product.rate_code(tier): {
            "unit": product.unit,
            "beginRange": start,
            "endRange": end,
            "description": "a description",
            "appliesTo": [],
            "rateCode": product.rate_code(tier),
            "pricePerUnit": {product.currency: usd},
        }
        for tier, (start, end, usd) in enumerate(product.tiers)
    }
    # Python keeps the order of keys: tiers must not be taken in it.
    dimensions = dict(sorted(dimensions.items()))
    code = f"{product.sku}.JRTCKXETXF"
    term = {
        "priceDimensions": dimensions,
        "sku": product.sku,
        "effectiveDate": "2026-11-01T00:00:00Z",
        "offerTermCode": "JRTCKXETXF",
        "termAttributes": {},
    }
    return {
        "product": {
            "productFamily": product.family,
            "attributes": product.attributes,
            "sku": product.sku,
        },
        "serviceCode": product.attributes.get("servicecode", ""),
        "terms": {product.term: {code: term}},
        "version": "20261115182130",
        "publicationDate": f"{published}T18:21:30Z",
    }


def as_json(products: Iterable[Product], published: str = PUBLISHED) -> str:
    """An offer file as JSON."""
    told: dict[str, Any] = {
        "formatVersion": "v1.0",
        "disclaimer": "This pricing list is for informational purposes only.",
        "offerCode": "AmazonOffer",
        "version": "20261115182130",
        "publicationDate": f"{published}T18:21:30Z",
        "products": {},
        "terms": {"OnDemand": {}, "Reserved": {}},
    }
    for product in products:
        item = item_of(product, published)
        told["products"][product.sku] = item["product"]
        told["terms"].setdefault(product.term, {})[product.sku] = item["terms"][product.term]
    return json.dumps(told)


def _serverless(prefix: str, region: str) -> Any:
    def product(sku: str, group: str, usage: str, unit: str, tiers: Any) -> Product:
        return Product(
            sku,
            {
                "servicecode": "AWSLambda",
                "locationType": "AWS Region",
                "location": "EU (Ireland)",
                "group": group,
                "usagetype": f"{prefix}{usage}",
                "regionCode": region,
            },
            unit,
            tiers,
        )

    return product


def lambda_products(prefix: str = "", region: str = "us-east-1") -> list[Product]:
    """AWSLambda's, with prices of our own, so that none is right by chance."""
    of = _serverless(prefix, region)
    second = "Lambda-GB-Second"
    x86 = [
        ("0", "6000000000", "0.0000166660"),
        ("6000000000", "15000000000", "0.0000150010"),
        ("15000000000", INF, "0.0000133330"),
    ]
    arm = [
        ("0", "7500000000", "0.0000133330"),
        ("7500000000", "18750000000", "0.0000120010"),
        ("18750000000", INF, "0.0000106660"),
    ]
    everywhere = [
        Product(
            sku,
            {
                "servicecode": "AWSLambda",
                "locationType": "AWS Region",
                "location": "Any",
                "group": group,
                "usagetype": f"Global-{usage}",
            },
            unit,
            [("0", most, "0.0000000000")],
        )
        for sku, group, usage, unit, most in (
            ("F1", "AWS-Lambda-Requests", "Request", "Requests", "1000000"),
            ("F2", "AWS-Lambda-Duration", second, second, "400000"),
        )
    ]
    return [
        *everywhere,
        of("D1", "AWS-Lambda-Duration", "Lambda-GB-Second", second, x86),
        of("D2", "AWS-Lambda-Duration-ARM", "Lambda-GB-Second-ARM", second, arm),
        of("R1", "AWS-Lambda-Requests", "Request", "Requests", flat("0.0000002100")),
        of("R2", "AWS-Lambda-Requests-ARM", "Request-ARM", "Requests", flat("0.0000002200")),
        of("E1", "AWS-Lambda-Edge-Duration", "Lambda-Edge-GB-Second", second, flat("0.00005001")),
        of("E2", "AWS-Lambda-Edge-Requests", "Lambda-Edge-Request", "Requests", flat("0.0000006")),
        of("M1", "AWS-Lambda-MicroVM-Duration", "MicroVM-GB-Second", second, flat("0.00003")),
        of("M2", "AWS-Lambda-Duration", "Lambda-MicroVM-GB-Second", second, flat("0.00004")),
        of("P1", "AWS-Lambda-Provisioned-Concurrency", "Lambda-Provisioned-Concurrency", second,
           flat("0.0000041660")),
        of("P2", "AWS-Lambda-Provisioned-Concurrency-ARM", "Lambda-Provisioned-Concurrency-ARM",
           second, flat("0.0000033330")),
        of("P3", "AWS-Lambda-Duration-Provisioned", "Lambda-Provisioned-GB-Second", second,
           flat("0.0000097220")),
        of("P4", "AWS-Lambda-Duration-Provisioned-ARM", "Lambda-Provisioned-GB-Second-ARM",
           second, flat("0.0000077770")),
        of("S1", "AWS-Lambda-Storage-Duration", "Lambda-Storage-GB-Second", "GB-Seconds",
           flat("0.0000000310")),
        of("S2", "AWS-Lambda-Storage-Duration-ARM", "Lambda-Storage-GB-Second-ARM", "GB-Seconds",
           flat("0.0000000320")),
        of("B1", "AWS-Lambda-Processed-Bytes", "Lambda-Streaming-Response-Processed-Bytes",
           "Processed-Gigabytes", flat("0.0081")),
    ]  # fmt: skip


def one(sku: str) -> Product:
    """One of AWSLambda's."""
    (found,) = [product for product in lambda_products() if product.sku == sku]
    return found


def lambda_with(*more: Product, but: str = "") -> list[Product]:
    """AWSLambda's, with others, without one."""
    return [product for product in lambda_products() if product.sku != but] + list(more)


def _plain(
    offer: str, region: str, usage: str, unit: str, tiers: Any, sku: str = "", **more: str
) -> Product:
    attributes = {
        "servicecode": offer,
        "locationType": "AWS Region",
        "usagetype": usage,
        "regionCode": region,
    }
    return Product(sku or f"{offer}{usage}", attributes | more, unit, tiers)


def s3_products(prefix: str = "", region: str = "us-east-1") -> list[Product]:
    tiers = [("0", "51200", "0.0240"), ("51200", "512000", "0.0230"), ("512000", INF, "0.0220")]
    usages: list[tuple[str, str, Any]] = [
        ("Requests-Tier1", "Requests", flat("0.0000051")),
        ("Requests-Tier2", "Requests", flat("0.0000004100")),
        ("Requests-ZIA-Tier1", "Requests", flat("0.00001")),
        ("TimedStorage-ByteHrs", "GB-Mo", tiers),
        ("TimedStorage-ZIA-ByteHrs", "GB-Mo", flat("0.01")),
    ]
    return [_plain("AmazonS3", region, f"{prefix}{usage}", *rest) for usage, *rest in usages]


def logs_products(prefix: str = "", region: str = "us-east-1") -> list[Product]:
    def of(usage: str, unit: str, usd: str, sku: str, **more: str) -> Product:
        return _plain("AmazonCloudWatch", region, f"{prefix}{usage}", unit, flat(usd), sku, **more)

    return [
        of("DataProcessing-Bytes", "GB", "0.5100", "L1", operation="PutLogEvents"),
        of("DataProcessing-Bytes", "GB", "0.2500", "L2", operation="PutLogEventsIA"),
        of("VendedLog-Bytes", "GB", "0.2500", "L3", operation=""),
        of("TimedStorage-ByteHrs", "GB-Mo", "0.0310", "L4"),
    ]


def transfer_products(prefix: str = "", region: str = "us-east-1") -> list[Product]:
    tiers = [
        ("0", "10240", "0.0910"),
        ("10240", "51200", "0.0860"),
        ("51200", "153600", "0.0710"),
        ("153600", INF, "0.0510"),
    ]
    offer = "AWSDataTransfer"
    free = _plain(offer, "", "Global-DataTransfer-Out-Bytes", "GB", [("0", "100", "0.0")])
    zone = {"fromLocationType": "AWS Local Zone"}
    return [
        free,
        _plain(offer, "", f"{prefix}DataTransfer-Out-Bytes", "GB", tiers, "T1"),
        _plain(offer, "", f"{prefix}DataTransfer-Out-Bytes", "GB", flat("0.15"), "T2", **zone),
        _plain(offer, "", f"{prefix}DataTransfer-Regional-Bytes", "GB", flat("0.0110"), "T3"),
        _plain(offer, "", f"{prefix or 'USE1-'}USW2-AWS-Out-Bytes", "GB", flat("0.02"), "T4"),
    ]


def fargate_products(prefix: str = "USE1-", region: str = "us-east-1") -> list[Product]:
    usages = [
        ("Fargate-vCPU-Hours:perCPU", "hours", "0.0405"),
        ("Fargate-ARM-vCPU-Hours:perCPU", "hours", "0.0325"),
        ("Fargate-Windows-vCPU-Hours:perCPU", "hours", "0.0914"),
        ("Fargate-GB-Hours", "hours", "0.0045"),
        ("Fargate-GB-Hours-SpotDiscount", "hours", "0.0013"),
        ("Fargate-ARM-GB-Hours", "hours", "0.0036"),
        ("Fargate-EphemeralStorage-GB-Hours", "GB-Hours", "0.000112"),
        ("ECS-EC2-vCPU-Hours", "hours", "0.0000"),
    ]
    return [
        _plain("AmazonECS", region, f"{prefix}{usage}", unit, flat(usd))
        for usage, unit, usd in usages
    ]


def valkey_products(prefix: str = "", region: str = "us-east-1") -> list[Product]:
    usages = [
        ("CachedData:Valkey", "GB-Hours", "0.0850"),
        ("CachedData:Redis", "GB-Hours", "0.1250"),
        ("ElastiCacheProcessingUnits:Valkey", "ElastiCacheProcessingUnits", "0.0000000024"),
        ("ElastiCacheProcessingUnits:Redis", "ElastiCacheProcessingUnits", "0.0000000034"),
        ("NodeUsage:cache.r7g.large", "Hrs", "0.2190"),
    ]
    return [
        _plain("AmazonElastiCache", region, f"{prefix}{usage}", unit, flat(usd))
        for usage, unit, usd in usages
    ]


def ec2_product(sku: str, name: str, usd: str, *, prefix: str = "", **more: str) -> Product:
    """A type of instance; what is not said is as in the plain row."""
    region = more.pop("regionCode", "us-east-1")
    term = more.pop("term", "OnDemand")
    usage = more.pop("usage", f"BoxUsage:{name}")
    currency = more.pop("currency", "USD")
    attributes = {
        "servicecode": "AmazonEC2",
        "locationType": "AWS Region",
        "location": "US East (N. Virginia)",
        "instanceType": name,
        "vcpu": "4",
        "physicalProcessor": "Intel Xeon Platinum 8175",
        "clockSpeed": "Up to 3.1 GHz",
        "memory": "16 GiB",
        "networkPerformance": "Up to 10 Gigabit",
        "tenancy": "Shared",
        "operatingSystem": "Linux",
        "licenseModel": "No License required",
        "usagetype": f"{prefix}{usage}",
        "operation": "RunInstances",
        "capacitystatus": "Used",
        "preInstalledSw": "NA",
        "regionCode": region,
    }
    family = "Compute Instance"
    return Product(sku, attributes | more, "Hrs", flat(usd), family, currency, term)


def ec2_products(prefix: str = "", region: str = "us-east-1") -> list[Product]:
    """Two plain types, each among all that resembles it; and NAT gateways."""
    found = []
    arm = {"physicalProcessor": "AWS Graviton4 Processor", "vcpu": "16", "memory": "32 GiB"}
    for name, usd, more in (("m5.xlarge", "0.1930", {}), ("c8g.4xlarge", "0.6390", arm)):
        variants: list[tuple[str, dict[str, str]]] = [
            (usd, {}),
            ("0.3760", {"operatingSystem": "Windows", "operation": "RunInstances:0002"}),
            ("0.2520", {"operatingSystem": "RHEL", "operation": "RunInstances:0010"}),
            ("0.1920", {"operatingSystem": "Windows", "licenseModel": "Bring your own license",
                        "operation": "RunInstances:0800"}),
            ("0.6720", {"preInstalledSw": "SQL Std", "operation": "RunInstances:0200"}),
            ("0.2110", {"tenancy": "Dedicated", "usage": f"DedicatedUsage:{name}"}),
            ("0.0000", {"tenancy": "Host", "usage": f"HostBoxUsage:{name}"}),
            ("0.0000", {"capacitystatus": "AllocatedCapacityReservation",
                        "usage": f"Reservation:{name}"}),
            ("0.1920", {"capacitystatus": "UnusedCapacityReservation",
                        "usage": f"UnusedBox:{name}"}),
            ("0.2300", {"locationType": "AWS Local Zone", "usage": f"BoxUsage:{name}",
                        "regionCode": "us-east-1-bos-1"}),
            ("0.0870", {"term": "Reserved"}),
        ]  # fmt: skip
        for number, (price, differs) in enumerate(variants):
            sku = f"{name.replace('.', '').upper()}{number}"
            options = {"regionCode": region, **more, **differs}
            found.append(ec2_product(sku, name, price, prefix=prefix, **options))
    for sku, usage, unit, usd in (
        ("N1", "NatGateway-Hours", "Hrs", "0.0460"),
        ("N2", "NatGateway-Bytes", "GB", "0.0470"),
        ("N3", "RegionalNatGateway-Hours", "Hrs", "0.0900"),
    ):
        operation = "RegionalNatGateway" if sku == "N3" else "NatGateway"
        more = {"group": "NGW:NatGateway", "operation": operation}
        found.append(_plain("AmazonEC2", region, f"{prefix}{usage}", unit, flat(usd), sku, **more))
    return found


ALL = {
    "AWSLambda": lambda_products,
    "AmazonS3": s3_products,
    "AmazonCloudWatch": logs_products,
    "AWSDataTransfer": transfer_products,
    "AmazonECS": fargate_products,
    "AmazonElastiCache": valkey_products,
    "AmazonEC2": ec2_products,
}
CSV_OFFERS = {"AmazonEC2", "AmazonElastiCache"}
# The first tier of each item in these files.
EXPECTED = {
    "lambda.gb_s.x86_64": "0.000016666",
    "lambda.gb_s.arm64": "0.000013333",
    "lambda.request.x86_64": "0.00000021",
    "lambda.request.arm64": "0.00000022",
    "lambda.provisioned_gb_s.x86_64": "0.000004166",
    "lambda.provisioned_gb_s.arm64": "0.000003333",
    "lambda.on_provisioned_gb_s.x86_64": "0.000009722",
    "lambda.on_provisioned_gb_s.arm64": "0.000007777",
    "lambda.ephemeral_gb_s": "0.000000031",
    "lambda.streamed_gb": "0.0081",
    "fargate.vcpu_hour.x86_64": "0.0405",
    "fargate.vcpu_hour.arm64": "0.0325",
    "fargate.gb_hour.x86_64": "0.0045",
    "fargate.gb_hour.arm64": "0.0036",
    "fargate.ephemeral_gb_hour": "0.000112",
    "s3.put": "0.0000051",
    "s3.list": "0.0000051",
    "s3.get": "0.00000041",
    "s3.storage_gb_month": "0.024",
    "logs.ingested_gb": "0.51",
    "logs.stored_gb_month": "0.031",
    "transfer.internet_gb": "0.091",
    "transfer.regional_gb": "0.011",
    "nat.gb": "0.047",
    "nat.hour": "0.046",
    "valkey.gb_hour": "0.085",
    "valkey.million_ecpu": "0.0024",
}


def files(
    region: str = "us-east-1", prefix: str | None = None, *, shuffled: int | None = None
) -> dict[str, str]:
    """All offer files of a region by their path, in any order of products."""
    found = {}
    for offer, products_of in ALL.items():
        products = products_of(*(() if prefix is None else (prefix, region)))
        if shuffled is not None:
            random.Random(shuffled).shuffle(products)
        is_csv = offer in CSV_OFFERS
        text = as_csv(products) if is_csv else as_json(products)
        found[f"{offer}/current/{region}/index.{'csv' if is_csv else 'json'}"] = text
    return found


def put(folder: Path, texts: dict[str, str]) -> Path:
    """Write offer files into a folder, laid out as AWS's."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@dataclass
class Server:
    """An HTTP server with files, ranges and ETags, that can be told to misbehave.

    Attributes:
        files: Bodies by path, without the first slash.
        etag: Of every file; another one means that they have changed.
        breaks: For each of the next requests, after how many bytes the connection ends.
        statuses: For each of the next requests, an error to answer with.
        hold: While it is set, bodies stop half-way, until it is cleared or the client goes.
        asked: Path, Range and If-Range of each request.
        redirects: Where a path leads.
    """

    files: dict[str, str | bytes]
    etag: str = '"first"'
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    is_held: threading.Event = field(default_factory=threading.Event)
    was_let_go: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    sent: int = 0
    redirects: dict[str, str] = field(default_factory=dict)
    url: str = ""

    def body(self, path: str) -> bytes | None:
        text = self.files.get(path)
        return text.encode() if isinstance(text, str) else text


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    told: Server

    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self) -> None:
        told = self.told
        wanted, version = self.headers.get("Range", ""), self.headers.get("If-Range", "")
        path = self.path.removeprefix("/")
        told.asked.append((path, wanted, version))
        body = told.body(path)
        status = told.statuses.pop(0) if told.statuses else 0
        start = int(wanted[6:-1]) if wanted and version == told.etag else 0
        if path in told.redirects:
            self._error(302, [("Location", told.redirects[path])])
        elif status or body is None:
            self._error(status or 403, [])
        elif start >= len(body):
            self._error(416, [("Content-Range", f"bytes */{len(body)}")])
        else:
            self.send_response(206 if start else 200)
            self.send_header("ETag", told.etag)
            self.send_header("Content-Length", str(len(body) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            self._send(body[start:])

    def _send(self, body: bytes) -> None:
        told = self.told
        most = told.breaks.pop(0) if told.breaks else len(body)
        if told.hold.is_set():
            most = len(body) // 2
        self.wfile.write(body[:most])
        self.wfile.flush()
        told.sent += min(most, len(body))
        if told.hold.is_set():
            told.is_held.set()
            self.connection.settimeout(30)
            with contextlib.suppress(OSError):
                self.connection.recv(1)  # until the client goes
            told.was_let_go.set()
        if most < len(body):
            self.close_connection = True
            self.connection.close()

    def _error(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.send_response(status)
        for name, value in [*headers, ("Content-Length", "0")]:
            self.send_header(name, value)
        self.end_headers()


@contextlib.contextmanager
def serving(
    bodies: dict[str, str] | dict[str, bytes], *, tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve files on this machine."""
    told = Server(dict(bodies))
    handler = type("Handler", (_Handler,), {"told": told})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_args: None  # type: ignore[method-assign]
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
        told.url = f"{scheme}://{host}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()
