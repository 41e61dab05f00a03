"""A few signed requests for the benchmark, with nothing but the standard library."""

import datetime
import hashlib
import hmac
import urllib.request


class Client:
    def __init__(self, endpoint, access_key, secret_key, region="us-east-1"):
        self.endpoint, self.access_key, self.secret_key, self.region = endpoint, access_key, secret_key, region

    def request(self, method, target, body=b""):
        """The answer's body. `target` is a path, escaped, and perhaps one `?name=value`."""
        path, _, query = target.partition("?")
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        host, digest = self.endpoint.split("://")[1], hashlib.sha256(body).hexdigest()
        names = "host;x-amz-content-sha256;x-amz-date"
        canonical = f"{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{digest}\nx-amz-date:{now}\n\n{names}\n{digest}"
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = ("AWS4" + self.secret_key).encode()
        for part in (now[:8], self.region, "s3", "aws4_request", to_sign):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        headers = {"x-amz-date": now, "x-amz-content-sha256": digest, "host": host}
        headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, SignedHeaders={names}, Signature={key.hex()}"
        request = urllib.request.Request(self.endpoint + target, data=body if method in ("PUT", "POST") else None, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.read()
