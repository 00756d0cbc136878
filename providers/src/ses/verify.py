"""Says whether a request, JSON on standard input, has the signature that AWS's own library makes of what was signed of it."""

import json
import re
import sys

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

given = json.load(sys.stdin)
headers = given["headers"]
found = re.fullmatch(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, SignedHeaders=([^,]+), Signature=([0-9a-f]{64})",
    headers["authorization"],
)
key, day, region, service, names, signature = found.groups()
names = names.split(";")
# What AWS wants signed where it is there.
assert {"host", "x-amz-date"} <= set(names) and names == sorted(names)
assert {name for name in headers if name.startswith("x-amz-")} <= set(names)
assert headers["x-amz-date"].startswith(day)

request = AWSRequest(
    method=given["method"],
    url=given["url"],
    data=given["body"].encode(),
    headers={name: headers[name] for name in names},
)
request.context["timestamp"] = headers["x-amz-date"]
auth = SigV4Auth(Credentials(key, given["secret"]), service, region)
to_sign = auth.string_to_sign(request, auth.canonical_request(request))
json.dump(auth.signature(to_sign, request) == signature, sys.stdout)
