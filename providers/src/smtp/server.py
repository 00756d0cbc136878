"""An SMTP server for tests: aiosmtpd, which answers as it is told and keeps what it was given.

Its settings are one line of JSON on standard input, and so is every request after it; each is answered by one line of JSON on
standard output. It ends with its standard input.
"""

import asyncio
import json
import logging
import pathlib
import ssl
import sys
import tempfile
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "mail"))

from aiosmtpd.smtp import SMTP, AuthResult
from read import read

settings = json.loads(sys.stdin.readline())
# Of each command, the answers that are given instead of its own: text, `close`, `never` or `go on`; of STARTTLS also `slip in`, which
# is somebody in the middle who adds an answer in the clear.
answers = {}
mails = []
commands = []
connections = 0


def context():
    with tempfile.TemporaryDirectory() as folder:
        chain = pathlib.Path(folder) / "chain.pem"
        chain.write_text(settings["certificate"] + settings["key"])
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(chain)
        return made


class Server(SMTP):
    is_greeted = False
    is_slipped_in = False

    async def push(self, status):
        if self.is_slipped_in and status.startswith("220 Ready"):
            status += "\r\n250-mail.example.org\r\n250 AUTH PLAIN LOGIN"
        if not self.is_greeted:
            self.is_greeted = True
            told = await self.told("GREETING", "")
            if told is not None:
                return await super().push(told)
        return await super().push(status)

    async def told(self, command, argument):
        """What it was told to answer; None where it shall do as usual."""
        global connections
        if command == "GREETING":
            connections += 1
        commands.append(f"{command} {argument or ''}".strip())
        queue = answers.get(command, [])
        answer = queue.pop(0) if queue else "go on"
        if answer == "close":
            self.transport.abort()
            await asyncio.sleep(3600)
        if answer == "never":
            await asyncio.sleep(3600)
        return None if answer == "go on" else answer

    async def scripted(self, command, argument, usual):
        told = await self.told(command, argument)
        if told is None:
            return await usual(argument)
        await self.push(told)
        if told.startswith("421"):
            self.transport.close()

    async def smtp_EHLO(self, argument):
        await self.scripted("EHLO", argument, super().smtp_EHLO)

    async def smtp_STARTTLS(self, argument):
        self.is_slipped_in = answers.get("STARTTLS") == ["slip in"]
        if self.is_slipped_in:
            return await super().smtp_STARTTLS(argument)
        await self.scripted("STARTTLS", argument, super().smtp_STARTTLS)

    async def smtp_AUTH(self, argument):
        # Not what follows the mechanism.
        told = await self.told("AUTH", argument.split()[0])
        if told is None:
            return await super().smtp_AUTH(argument)
        await self.push(told)

    async def smtp_MAIL(self, argument):
        await self.scripted("MAIL", argument, super().smtp_MAIL)

    async def smtp_RCPT(self, argument):
        await self.scripted("RCPT", argument, super().smtp_RCPT)

    async def smtp_DATA(self, argument):
        await self.scripted("DATA", argument, super().smtp_DATA)

    async def smtp_RSET(self, argument):
        await self.scripted("RSET", argument, super().smtp_RSET)

    async def smtp_QUIT(self, argument):
        await self.scripted("QUIT", argument, super().smtp_QUIT)


class Handler:
    async def handle_DATA(self, server, session, envelope):
        told = await server.told("MESSAGE", "")
        if told is not None and not told.startswith("2"):
            return told
        mail = read(bytes(envelope.content))
        mail["envelope"] = [envelope.mail_from, envelope.rcpt_tos]
        mail["login"] = session.auth_data.login.decode() if session.auth_data else ""
        mail["tls"] = session.ssl is not None or settings["tls"] == "tls"
        mails.append(mail)
        return told or "250 2.0.0 Ok: queued as 4XyZ"


def authenticate(server, session, envelope, mechanism, data):
    wanted = (settings["username"].encode(), settings["password"].encode())
    return AuthResult(success=(data.login, data.password) == wanted, handled=False, auth_data=data)


def serve():
    tls = settings["tls"]
    return Server(
        Handler(),
        hostname="mail.example.org",
        tls_context=context() if tls == "starttls" else None,
        require_starttls=tls == "starttls",
        auth_required=settings["username"] is not None,
        auth_require_tls=tls == "starttls",
        auth_exclude_mechanism=settings["without"],
        authenticator=authenticate,
        data_size_limit=settings["most"],
        loop=asyncio.get_running_loop(),
    )


def asked(request):
    if "answers" in request:
        answers.update(request["answers"])
        return {}
    said = {"mails": list(mails), "commands": list(commands), "connections": connections}
    mails.clear()
    commands.clear()
    return said


def say(value):
    print(json.dumps(value), flush=True)


async def main():
    server = await asyncio.get_running_loop().create_server(
        serve, "127.0.0.1", 0, ssl=context() if settings["tls"] == "tls" else None
    )
    say({"port": server.sockets[0].getsockname()[1]})
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        say(asked(json.loads(line)))


# aiosmtpd tells of passwords in the clear and of clients that go away, which tests are about.
warnings.simplefilter("ignore")
logging.getLogger("mail").addHandler(logging.NullHandler())
asyncio.run(main())
