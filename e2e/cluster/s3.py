"""The S3 server of the tests: its keys, and the bucket, made by the same API that the tests use."""

import hashlib
import hmac
import http.client
import secrets
import socket
from datetime import UTC, datetime
from typing import Final

from .errors import ClusterError
from .pki import write_private
from .settings import NODE_IP, S3_BUCKET, S3_PORT, Settings

ENDPOINT: Final = f"http://{NODE_IP}:{S3_PORT}"
_REGION: Final = "us-east-1"


def ensure_credentials(settings: Settings) -> None:
    """Make the keys once; only root may read them, and nothing prints them but `s3-env`."""
    (settings.state / "s3").mkdir(parents=True, exist_ok=True)
    if not (settings.state / "s3.env").exists():
        keys = f"ROOT_ACCESS_KEY=windlass{secrets.token_hex(6)}\nROOT_SECRET_KEY={secrets.token_urlsafe(30)}\n"
        write_private(settings.state / "s3.env", keys)


def connection(settings: Settings) -> dict[str, str]:
    """Return what a client needs, under the names of the Secret `windlass-s3`."""
    file = settings.state / "s3.env"
    if not file.exists():
        raise ClusterError("there is no S3 server", where=str(file), todo="`python3 -m e2e.cluster up`")
    keys = dict(line.split("=", 1) for line in file.read_text().split())
    return {
        "endpoint": ENDPOINT,
        "bucket": S3_BUCKET,
        "accessKey": keys["ROOT_ACCESS_KEY"],
        "secretKey": keys["ROOT_SECRET_KEY"],
    }


def listens() -> bool:
    """Tell whether the server takes connections."""
    try:
        socket.create_connection((NODE_IP, S3_PORT), timeout=0.5).close()
    except OSError:
        return False
    return True


def ensure_bucket(settings: Settings) -> None:
    """Create the bucket; that it is there already is fine."""
    env = connection(settings)
    status, text = _signed("PUT", f"/{env['bucket']}", env["accessKey"], env["secretKey"])
    if status not in (200, 409):
        raise ClusterError(
            f"the bucket {env['bucket']} could not be created: {status} {text[:200]}",
            where=str(settings.logs / "versitygw.log"),
            todo="the state folder's file system must have extended attributes (ext4 and xfs do): "
            "set WINDLASS_CLUSTER_DIR to a folder on one",
        )


def _signed(method: str, path: str, access: str, secret: str) -> tuple[int, str]:
    """Send one request with an empty body, signed as AWS's version 4 wants it."""
    now = datetime.now(UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    host, empty = f"{NODE_IP}:{S3_PORT}", hashlib.sha256(b"").hexdigest()
    headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": stamp}
    signed = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = f"{method}\n{path}\n\n{lines}\n{signed}\n{empty}"
    scope = f"{day}/{_REGION}/s3/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in (day, _REGION, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={signed}, Signature={signature}"
    )
    client = http.client.HTTPConnection(NODE_IP, S3_PORT, timeout=10)
    try:
        client.request(method, path, headers=headers)
        answer = client.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        client.close()
