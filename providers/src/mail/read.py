"""Reads a mail as a mail client does and says what it saw, as JSON: bytes on standard input, or as a module for the SMTP server."""

import json
import sys
from email import message_from_bytes, policy


def read(raw):
    message = message_from_bytes(raw, policy=policy.default)
    leaves = [part for part in message.walk() if not part.is_multipart()]
    defects = [str(defect) for part in message.walk() for defect in part.defects]
    defects += [str(defect) for value in message.values() for defect in getattr(value, "defects", ())]
    sender = message["From"].addresses[0]
    return {
        "headers": [[name, str(value)] for name, value in message.items()],
        "from": [sender.display_name, sender.addr_spec],
        "to": [address.addr_spec for address in message["To"].addresses],
        "date": message["Date"].datetime.timestamp(),
        "type": message.get_content_type(),
        "parts": [[part.get_content_type(), part.get_content().replace("\r\n", "\n").rstrip("\n")] for part in leaves],
        "defects": defects,
        "longest_line": max(len(line) for line in raw.split(b"\r\n")),
        "is_ascii": raw.isascii(),
        "is_crlf": b"\n" not in raw.replace(b"\r\n", b"") and b"\r" not in raw.replace(b"\r\n", b""),
    }


if __name__ == "__main__":
    json.dump(read(sys.stdin.buffer.read()), sys.stdout)
